/**
 * Run as a process of its own: a shell that is told what to ask of a store, and answers with what it got and when.
 * It saves the start of a program for each call; what it does is what the commands do.
 */
import type {FetchOptions} from '../../src/core/images/images.ts'
import {toImgstoreError} from '../../src/core/errors.ts'
import type {ImageStatus} from '../../src/core/image.ts'
import {resolveSettings} from '../../src/core/settings.ts'
import {openStore, type CleanupItem, type Store} from '../../src/core/store.ts'
import {shown, type Call, type Op} from './legal-orders.ts'

export type Order = {
  op: Op
  name: string
  source?: {word: string; url: string; digest: string}
  options?: Pick<FetchOptions, 'kind' | 'backend'>
  /** Follow the image to the end of its run; the answer is then what came of it. */
  isFollowed?: boolean
}
export type Asked = {shell: number; orders: Order[]; words: Record<string, string>}

const nowMs = (): number => Number(process.hrtime.bigint()) / 1e6

async function ask(
  store: Store,
  {op, name, source, options}: Order,
): Promise<ImageStatus | string> {
  const {images, maintenance} = store
  switch (op) {
    case 'fetch':
    case 'replace': {
      if (!source) throw new Error('what is to be fetched?')
      const asked: FetchOptions = {name, url: source.url, digest: source.digest, ...options}
      const done = await images.fetch({...asked, replace: op === 'replace'})
      return Object.assign(done.status, {word: done.outcome})
    }
    case 'activate':
      return await images.activate(name)
    case 'deactivate':
      return await images.deactivate(name)
    case 'remove':
      await images.remove(name)
      return 'ok'
    case 'retry':
      return await images.retry(name)
    case 'status':
      return await images.status(name)
    case 'cleanup':
      return cleaned((await maintenance.cleanup({isDryRun: false})).items)
  }
}

function cleaned(items: readonly CleanupItem[]): string {
  const failed = items.filter(({error}) => error !== undefined)
  return failed.length === 0 ? 'ok' : JSON.stringify(failed)
}

async function call(store: Store, order: Order, {shell, words}: Asked): Promise<Call> {
  const {op, source} = order
  const from = nowMs()
  let result: string
  try {
    const got = await ask(store, order)
    if (order.isFollowed) {
      const {outcome, status} = await store.images.settle(order.name, {timeoutMs: 120_000})
      result = `${outcome} ${status?.state ?? 'gone'}${status?.failed ? status.failed.message : ''}`
    } else if (typeof got === 'string') result = got
    else {
      const {word = 'ok'} = got as {word?: string}
      result = shown(word, {goal: got.goal, source: words[got.digest] ?? got.digest})
    }
  } catch (error) {
    result = toImgstoreError(error).code
  }
  return {shell, op, ...(source ? {source: source.word} : {}), from, to: nowMs(), result}
}

const store = await openStore({
  ...resolveSettings({flags: {}, env: process.env, dataDir: '/nonexistent', cwd: '/'}),
  role: 'command',
})
process.on('message', (asked: Asked) => {
  void (async () => {
    const calls: Call[] = []
    for (const order of asked.orders) calls.push(await call(store, order, asked))
    process.send?.(calls)
  })()
})
process.once('disconnect', () => void store.close())
process.send?.('ready')
