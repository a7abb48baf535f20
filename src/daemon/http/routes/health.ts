/** For supervisors: /healthz says whether the store is well, /readyz whether this worker takes work. */
import {errorToJson, toImgstoreError} from '../../../core/errors.ts'
import type {Logger} from '../../../core/log.ts'
import type {Store} from '../../../core/store.ts'
import type {Routes} from '../server.ts'

/** Whether the loop behind this door works, and in a few words why not. */
export type Readiness = {isReady: boolean; detail: string}

type Health = {
  isOk: boolean
  checks: Record<string, {status: 'ok' | 'fail'} & Record<string, unknown>>
}

/**
 * GET /healthz: 200 while the database can be read and written and the store has its reserve of free space, else 503.
 * GET /readyz: 200 while the loop runs and the database answers, else 503. Both say in JSON what they looked at.
 */
export function healthRoutes(o: {
  store: Pick<Store, 'health'>
  readiness: () => Readiness
  log: Logger
}): Routes {
  let wasOk = true
  const look = async (): Promise<Health> => {
    const health = await readHealth(o.store)
    // Said once for each change, not for each probe.
    if (health.isOk !== wasOk) {
      if (health.isOk) o.log.info({checks: health.checks}, 'the store is well again')
      else o.log.warn({checks: health.checks}, 'the store is not well')
    }
    wasOk = health.isOk
    return health
  }
  return (app) => {
    app.get('/healthz', async (_request, reply) => {
      const {isOk, checks} = await look()
      return reply
        .code(isOk ? 200 : 503)
        .header('cache-control', 'no-store')
        .send({status: isOk ? 'ok' : 'fail', checks})
    })
    app.get('/readyz', async (_request, reply) => {
      const loop = o.readiness()
      const {database} = (await look()).checks
      const isReady = loop.isReady && database?.status === 'ok'
      return reply
        .code(isReady ? 200 : 503)
        .header('cache-control', 'no-store')
        .send({
          status: isReady ? 'ok' : 'fail',
          checks: {loop: {status: loop.isReady ? 'ok' : 'fail', detail: loop.detail}, database},
        })
    })
  }
}

async function readHealth(store: Pick<Store, 'health'>): Promise<Health> {
  try {
    const {database, space} = await store.health()
    return {
      isOk: database.isOk && space.isOk,
      checks: {
        database: {status: database.isOk ? 'ok' : 'fail', detail: database.detail},
        space: {
          status: space.isOk ? 'ok' : 'fail',
          free_bytes: space.freeBytes,
          total_bytes: space.totalBytes,
          reserve_bytes: space.reserveBytes,
          waiting_images: space.waitingImages,
          ...(space.isOk ? {} : {detail: lowText(space)}),
        },
      },
    }
  } catch (thrown) {
    const {code, message, hint} = errorToJson(toImgstoreError(thrown))
    return {isOk: false, checks: {database: {status: 'fail', detail: message, code, hint}}}
  }
}

function lowText({waitingImages}: Awaited<ReturnType<Store['health']>>['space']): string {
  const who = waitingImages === 1 ? '1 image waits' : `${waitingImages} images wait`
  return `free space is below the reserve and ${who} for more; \`imgstore cleanup\` may free some`
}
