/**
 * Whether what several shells saw of one image can have come about in some order: each call takes effect in steps
 * between its beginning and its end, each step at once, and an image that is being removed is gone at some moment.
 * The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993), with a memory.
 */
import {isDeepStrictEqual} from 'node:util'

export type Op =
  'fetch' | 'replace' | 'activate' | 'deactivate' | 'remove' | 'retry' | 'status' | 'cleanup'

/** One call as its shell saw it; times by one clock, in any unit. */
export type Call = {
  shell: number
  op: Op
  /** Of `fetch` and `replace`. */
  source?: string
  from: number
  to: number
  /** The code of an error; else a word for the outcome, and where it is shown the image that was read last. */
  result: string
}

/** What is known of the image: undefined when it is not there. */
export type Known = {source: string; goal: string} | undefined

/** What a call may do next: leave this behind, and go on at another step or end with a result. */
type Way = {known: Known; next: string} | {known: Known; result: string}

export const shown = (word: string, known: NonNullable<Known>): string =>
  `${word} ${known.goal} ${known.source}`

/** What `src/core/images/ask.ts` and `images.ts` do, one step for each look at the database. */
function waysOf({op, source = ''}: Call, step: string, known: Known): Way[] {
  const end = (result: string): Way[] => [{known, result}]
  const goOn = (next: string, now: Known = known): Way[] => [{known: now, next}]
  const read = (word: string): Way[] => end(known ? shown(word, known) : 'image_not_found')
  const isRemoving = known?.goal === 'REMOVED'
  const isSame = known?.source === source && !isRemoving
  if (step.startsWith('read ')) return read(step.slice(5))
  switch (op) {
    case 'fetch':
      if (!known) return goOn('read enqueued', {source, goal: 'ACTIVE'})
      return isSame ? goOn('read unchanged') : end('name_taken')
    case 'replace':
      return replaceWays(source, step, known)
    case 'activate':
    case 'deactivate':
      if (!known) return end('image_not_found')
      if (isRemoving) return end('image_busy')
      return goOn('read ok', {...known, goal: op === 'activate' ? 'ACTIVE' : 'STORED'})
    case 'remove':
      if (!known) return end('image_not_found')
      if (step === '') return goOn('wish')
      return [{known: {...known, goal: 'REMOVED'}, result: 'ok'}]
    case 'retry':
      // Busy or not is a matter of the run, of which the model knows nothing.
      return known ? [...end('image_busy'), ...goOn('read ok')] : end('image_not_found')
    case 'status':
      return read('ok')
    case 'cleanup':
      return end('ok')
  }
}

function replaceWays(source: string, step: string, known: Known): Way[] {
  const isSame = known?.source === source && known.goal !== 'REMOVED'
  const made = {source, goal: 'ACTIVE'}
  switch (step) {
    case '':
      if (!known) return [{known: made, next: 'read enqueued'}]
      return [{known, next: isSame ? 'read unchanged' : 'wish'}]
    case 'wish':
      return known ? [{known: {...known, goal: 'REMOVED'}, next: 'gone'}] : [{known, next: 'again'}]
    case 'gone':
      // Another image of that name may have come and settled meanwhile.
      if (known) return known.goal === 'REMOVED' ? [] : [{known, result: 'image_busy'}]
      return [{known, next: 'again'}]
    default:
      if (!known) return [{known: made, next: 'read replaced'}]
      return isSame ? [{known, next: 'read replaced'}] : [{known, result: 'image_busy'}]
  }
}

const over = '.'

/**
 * An order that explains `calls`, from `before` to `after`, as the numbers of the calls in the order of their steps;
 * undefined when there is none.
 */
export function findLegalOrder(
  calls: readonly Call[],
  before: Known,
  after: Known,
): number[] | undefined {
  const seen = new Set<string>()
  const order: number[] = []
  const search = (steps: string[], known: Known): boolean => {
    if (steps.every((step) => step === over) && isDeepStrictEqual(known, after)) return true
    const key = `${steps.join('|')}#${known ? shown('', known) : ''}`
    if (seen.has(key)) return false
    seen.add(key)
    if (known?.goal === 'REMOVED' && search(steps, undefined)) return true
    // A call may step when none that ended before it began is still to end.
    let firstEnd = Infinity
    for (const [n, {to}] of calls.entries())
      if (steps[n] !== over) firstEnd = Math.min(firstEnd, to)
    for (const [n, call] of calls.entries()) {
      const step = steps[n] ?? over
      if (step === over || call.from > firstEnd) continue
      for (const way of waysOf(call, step, known)) {
        if ('result' in way && way.result !== call.result) continue
        order.push(n)
        if (search(steps.with(n, 'result' in way ? over : way.next), way.known)) return true
        order.pop()
      }
    }
    return false
  }
  return search(
    calls.map(() => ''),
    before,
  )
    ? order
    : undefined
}
