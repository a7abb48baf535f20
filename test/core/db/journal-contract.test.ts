import type {ImagePatch} from '../../../src/core/db/journal.ts'
import {getPlaced} from '../../../src/core/db/images.ts'
import {listRuns} from '../../../src/core/db/runs.ts'
import type {ImageName} from '../../../src/core/ids.ts'
import type {Goal, ImageState} from '../../../src/core/image.ts'
import {journalSuite} from '../../contract/journal-suite.ts'
import {node, withTempDatabase} from '../../support/db-rows.ts'
import {FixedClock} from '../../support/fixed-clock.ts'
import {MemoryJournal} from '../../support/memory-journal.ts'
import {SimulatedStore} from '../../support/simulation/store.ts'

journalSuite('in SQL', async (body) => {
  await withTempDatabase(async ({database, journal, clock, add}) => {
    await body({
      journal,
      clock,
      add: async (name, dueAt) => (await add(name, dueAt === undefined ? {} : {dueAt})).run,
      look: async (text) => {
        const name = text as ImageName
        const image = await getPlaced(database.db, node, name)
        const [run] = await listRuns(database.db, {node, image: name, limit: 1})
        return {state: image?.state ?? '', status: run?.status ?? '', attempt: run?.attempt ?? 0}
      },
    })
  })
})

journalSuite('of tests', async (body) => {
  const clock = new FixedClock()
  const journal = new MemoryJournal<ImageState, Goal, ImagePatch>(clock, 'FAILED')
  await body({
    journal,
    clock,
    add: (name, dueAt) => Promise.resolve(journal.add(name, 'NEW', 'ACTIVE', dueAt).id),
    look: (name) => {
      const run = [...journal.runs.values()].find((each) => each.name === (name as ImageName))
      return Promise.resolve({
        state: run?.state ?? '',
        status: run?.status ?? '',
        attempt: run?.attempt ?? 0,
      })
    },
  })
})

journalSuite('of the simulation', async (body) => {
  const clock = new FixedClock()
  const journal = new SimulatedStore(clock, {isTelling: true})
  await body({
    journal,
    clock,
    add: (name, dueAt) => {
      const digest = journal.places.length
      return Promise.resolve(journal.register(name, digest, 'ACTIVE', dueAt).id)
    },
    look: (name) => {
      const run = journal.runs.find((each) => each.place.name === (name as ImageName))
      return Promise.resolve({
        state: run?.place.state ?? '',
        status: run?.status ?? '',
        attempt: run?.attempt ?? 0,
      })
    },
  })
})
