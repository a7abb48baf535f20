/** The tests' own store must see what a test leaves behind, or every other test proves less than it says. */
import {spawn} from 'node:child_process'
import {once} from 'node:events'
import {closeSync, mkdirSync, openSync} from 'node:fs'
import {join} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {expect} from 'chai'
import {withTempStore, type TempStore} from '../support/temp-store.ts'

async function complaint(body: (context: TempStore) => Promise<void> | void): Promise<string> {
  const thrown = await withTempStore(async (context) => {
    await body(context)
  }).catch((error: unknown) => error)
  return thrown instanceof Error ? thrown.message : 'nothing'
}

describe('the store of tests', () => {
  it('says nothing when nothing is left', async () => {
    expect(await complaint(() => undefined)).to.equal('nothing')
  })

  it('fails over a staged tree', async () => {
    const said = await complaint(({storeDir}) => {
      mkdirSync(join(storeDir, 'staging/left'), {recursive: true})
    })
    expect(said).to.include('staging/left')
  })

  it('fails over an open file', async () => {
    let descriptor = -1
    const said = await complaint(({dir}) => {
      descriptor = openSync(join(dir, 'left'), 'w')
    })
    closeSync(descriptor)
    expect(said).to.match(/an open file: .*left/)
  })

  it('fails over a process', async () => {
    const child = spawn('sleep', ['60'])
    // One from before the store is not the test's.
    await once(child, 'spawn')
    expect(await complaint(() => undefined)).to.equal('nothing')
    let other: ReturnType<typeof spawn> | undefined
    const said = await complaint(async () => {
      other = spawn('sleep', ['60'])
      await once(other, 'spawn')
    })
    expect(said).to.include(`the process ${other?.pid}`)
    for (const each of [child, other]) each?.kill('SIGKILL')
    if (other) await once(other, 'exit')
  })

  it('fails over a run that is still running', async () => {
    const said = await complaint(async ({store, dir}) => {
      await store.images.fetch({name: 'one', url: 'http://127.0.0.1:1/x', digest: 'a'.repeat(64)})
      const file = new SqliteDatabase(join(dir, 'store.db'))
      file.exec(`update runs set status = 'running', owner = 'x'`)
      file.close()
    })
    expect(said).to.include('of one is still running')
  })
})
