/** Runs and their events, for those who want to know what happened. */
import {lastSeq, listEvents} from '../db/events.ts'
import {findRuns, listRuns} from '../db/runs.ts'
import {fail} from '../errors.ts'
import {parseImageName} from '../ids.ts'
import type {RunEvent, RunSummary} from '../image.ts'
import type {ImagesContext} from './context.ts'

const listMax = 10_000

export type Runs = {
  /** Newest first. */
  list(options?: {image?: string; limit?: number; isOpen?: boolean}): Promise<RunSummary[]>
  /** By id, or by the start of one when only one run has it. Errors: run_not_found. */
  show(id: string): Promise<{run: RunSummary; events: RunEvent[]}>
  /** Oldest first; without `afterSeq` the last `limit` (default 100). */
  events(options?: {image?: string; afterSeq?: number; limit?: number}): Promise<RunEvent[]>
  /** Events as they happen, from after `afterSeq` (default: from now on), until `signal` aborts. */
  follow(options: {image?: string; afterSeq?: number; signal: AbortSignal}): AsyncIterable<RunEvent>
}

export function openRuns(
  images: Pick<ImagesContext, 'database' | 'node' | 'clock' | 'settings'>,
): Runs {
  const {database, node} = images
  const imageFilter = (image: string | undefined) =>
    image === undefined ? {} : {image: parseImageName(image)}
  return {
    list: async (o = {}) =>
      await listRuns(database.db, {
        node,
        limit: Math.min(o.limit ?? 100, listMax),
        ...imageFilter(o.image),
        ...(o.isOpen === undefined ? {} : {isOpen: o.isOpen}),
      }),
    show: async (id) => {
      const [run, second] = await findRuns(database.db, node, id)
      if (!run || second) throw fail('run_not_found', {run: id})
      return {
        run,
        events: await listEvents(database.db, {node, run: run.id, afterSeq: 0, limit: listMax}),
      }
    },
    events: async (o = {}) =>
      await listEvents(database.db, {
        node,
        limit: Math.min(o.limit ?? 100, listMax),
        ...imageFilter(o.image),
        ...(o.afterSeq === undefined ? {} : {afterSeq: o.afterSeq}),
      }),
    follow: (o) =>
      follow(images, {
        ...imageFilter(o.image),
        signal: o.signal,
        ...(o.afterSeq === undefined ? {} : {afterSeq: o.afterSeq}),
      }),
  }
}

async function* follow(
  images: Pick<ImagesContext, 'database' | 'node' | 'clock' | 'settings'>,
  options: {image?: RunEvent['image']; afterSeq?: number; signal: AbortSignal},
): AsyncIterable<RunEvent> {
  const {database, node, clock} = images
  let afterSeq = options.afterSeq ?? (await lastSeq(database.db))
  while (!options.signal.aborted) {
    const filter = {
      node,
      afterSeq,
      limit: 1000,
      ...(options.image === undefined ? {} : {image: options.image}),
    }
    for (const event of await listEvents(database.db, filter)) {
      afterSeq = event.seq
      yield event
    }
    await clock.sleep(images.settings().pollMs, options.signal)
  }
}
