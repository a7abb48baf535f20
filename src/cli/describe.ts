/** Images, runs and events in words. Everything that came from outside is made printable here. */
import type {ErrorJson} from '../core/errors.ts'
import {errorTable, type ErrorCode} from '../core/errors.ts'
import type {ImageStatus, Progress, RunEvent, RunSummary} from '../core/image.ts'
import type {Pace} from './pace.ts'
import {
  bar,
  formatAge,
  formatBytes,
  formatCount,
  formatDuration,
  formatTime,
  labelled,
  printable,
  table,
} from './print.ts'

/** The exit code of a failure that was kept as JSON. */
export function exitOf(error: ErrorJson): number {
  return Object.hasOwn(errorTable, error.code) ? errorTable[error.code as ErrorCode].exit : 1
}

/** The first line of every report on an image; scripts written for the older tools read it. */
export function headline(status: ImageStatus): string {
  return `Image ${printable(status.name)}: ${status.state}`
}

/** Why an image is not where its owner wants it, in one line; empty when it is. */
export function remarkOf(status: ImageStatus, now: number): string {
  if (status.failed) return `${status.failed.code}: ${printable(status.failed.message)}`
  if (status.held) return `held: ${printable(status.held.message)}`
  if (status.state === 'ACTIVE' && status.isMounted === false)
    return 'not mounted; a worker mends it'
  if (status.run?.status === 'waiting' && status.run.error)
    return isAwaited(status.run.error)
      ? printable(status.run.error.message)
      : `next try ${inTime(status.run.dueAt, now)}: ${printable(status.run.error.message)}`
  if (status.disk) return printable(status.disk.path)
  if (status.state === 'ACTIVE') return status.mountPoint ? printable(status.mountPoint) : ''
  if (status.run?.status === 'pending' && status.goal !== status.state) return 'waits for a worker'
  if (status.run?.progress) return progressText(status.run.progress, {})
  return ''
}

/** What is no failed attempt: the run waits for the host. */
function isAwaited({code}: ErrorJson): boolean {
  return Object.hasOwn(errorTable, code) && errorTable[code as ErrorCode].retry === 'wait'
}

function inTime(at: number | undefined, now: number): string {
  return at === undefined || at <= now ? 'now' : `in ${formatDuration(at - now)}`
}

/** Everything about one image, as `status` shows it. */
export function statusLines(status: ImageStatus, now: number): string[] {
  const pairs: [string, string][] = []
  const add = (label: string, value: string | undefined): void => {
    if (value !== undefined && value !== '') pairs.push([label, value])
  }
  if (status.goal !== status.state) add('goal', status.goal)
  if (status.failed) {
    add('failed', `${printable(status.failed.message)} (${status.failed.code})`)
    add('came from', status.failed.from)
    add('try', printable(status.failed.hint.replaceAll('NAME', status.name)))
  } else if (status.run?.status === 'waiting' && status.run.error && isAwaited(status.run.error)) {
    add('waits', `${printable(status.run.error.message)} (${status.run.error.code})`)
    add('try', printable(status.run.error.hint))
  } else if (status.held) {
    add('held', `${printable(status.held.message)} (${status.held.code})`)
    add('try', printable(status.held.hint.replaceAll('NAME', status.name)))
  }
  if (status.mountPoint !== undefined) {
    const note = status.isMounted === false ? ' (not mounted now; a worker mends it)' : ''
    add('mounted at', printable(status.mountPoint) + note)
  }
  if (status.disk) {
    const note = status.disk.isPublished ? '' : ' (not shown now; a worker mends it)'
    add('shown as', printable(status.disk.path) + note)
    if (status.disk.digest !== status.digest) add('disk digest', `sha256:${status.disk.digest}`)
  }
  add('source', printable(status.url))
  add('digest', `sha256:${status.digest}`)
  if (status.imageKind === 'disk') {
    add('kind', 'disk')
    add('limits', limitsText(status))
  } else {
    add('profile', [status.profile, limitsText(status)].filter(Boolean).join(', '))
    add('backend', status.treeBackend ?? status.backend)
  }
  add('size', sizeText(status))
  if (status.run) add('run', runText(status.run, now))
  add('created', momentText(status.createdAt, now))
  add('changed', momentText(status.updatedAt, now))
  return [headline(status), ...labelled(pairs)]
}

function momentText(at: number, now: number): string {
  return `${formatTime(at)} (${formatAge(at, now)})`
}

function limitsText(status: ImageStatus): string {
  return Object.entries(status.limits)
    .map(([key, value]) => `${key} ${key.includes('Bytes') ? formatBytes(value) : value}`)
    .join(', ')
}

function sizeText(status: ImageStatus): string {
  const parts: string[] = []
  if (status.sizeBytes !== undefined) parts.push(formatBytes(status.sizeBytes))
  if (status.entries !== undefined) {
    const bytes = status.treeBytes === undefined ? '' : `, ${formatBytes(status.treeBytes)}`
    parts.push(`unpacked ${formatCount(status.entries, 'entry', 'entries')}${bytes}`)
  } else if (status.treeBytes !== undefined) parts.push(`disk of ${formatBytes(status.treeBytes)}`)
  return parts.join('; ')
}

function runText(run: RunSummary, now: number): string {
  const parts = [`${run.id} ${run.status}`]
  if (run.finishedAt === undefined) {
    if (run.step !== undefined) parts.push(`step ${run.step}, attempt ${run.attempt}`)
    if (run.status === 'waiting') parts.push(`next try ${inTime(run.dueAt, now)}`)
    if (run.progress) parts.push(progressText(run.progress, {}))
    if (run.error && run.status === 'waiting') parts.push(printable(run.error.message))
  }
  return parts.join(', ')
}

/** All images, one a line. */
export function imageTable(images: readonly ImageStatus[], now: number): string[] {
  if (images.length === 0) return ['No images.']
  return table(
    ['NAME', 'STATE', 'SIZE', 'CHANGED', 'REMARK'],
    images.map((image) => [
      printable(image.name),
      image.state,
      image.sizeBytes === undefined ? '-' : formatBytes(image.sizeBytes),
      formatAge(image.updatedAt, now),
      remarkOf(image, now),
    ]),
    ['SIZE'],
  )
}

/** All runs, one a line. */
export function runTable(runs: readonly RunSummary[], now: number): string[] {
  if (runs.length === 0) return ['No runs.']
  return table(
    ['RUN', 'IMAGE', 'GOAL', 'STATUS', 'STEP', 'ATTEMPT', 'CREATED', 'TOOK', 'ERROR'],
    runs.map((run) => [
      printable(run.id),
      printable(run.image),
      run.goal,
      run.status,
      run.step ?? '-',
      String(run.attempt),
      formatAge(run.createdAt, now),
      run.finishedAt === undefined
        ? '-'
        : formatDuration(run.finishedAt - (run.startedAt ?? run.createdAt)),
      run.error?.code ?? '',
    ]),
    ['ATTEMPT'],
  )
}

/** One run in full, without its events. */
export function runLines(run: RunSummary, now: number): string[] {
  const pairs: [string, string][] = [
    ['image', printable(run.image)],
    ['goal', run.goal],
    ['step', `${run.step ?? '-'}, attempt ${run.attempt}`],
    ['node', run.node],
  ]
  if (run.owner !== undefined) pairs.push(['worker', `${printable(run.owner)}, epoch ${run.epoch}`])
  if (run.status === 'waiting') pairs.push(['next try', inTime(run.dueAt, now)])
  if (run.progress && run.finishedAt === undefined)
    pairs.push(['progress', progressText(run.progress, {})])
  if (run.error) {
    pairs.push(['error', `${printable(run.error.message)} (${run.error.code})`])
    pairs.push(['try', printable(run.error.hint.replaceAll('NAME', run.image))])
  }
  pairs.push(['created', momentText(run.createdAt, now)])
  if (run.startedAt !== undefined) pairs.push(['started', momentText(run.startedAt, now)])
  if (run.finishedAt !== undefined) {
    const took = formatDuration(run.finishedAt - (run.startedAt ?? run.createdAt))
    pairs.push(['finished', `${momentText(run.finishedAt, now)}, after ${took}`])
  }
  return [`Run ${run.id}: ${run.status}`, ...labelled(pairs)]
}

/** What an event says, without its time and image. */
export function eventText(event: RunEvent): string {
  const reason = event.error ? `: ${printable(event.error.message)}` : ''
  const step = event.step ?? 'step'
  switch (event.kind) {
    case 'transition':
      return [event.to ?? event.from ?? step, ...parenthesis(transitionNotes(event))].join(' ')
    case 'retry': {
      if (event.error && isAwaited(event.error))
        return `${printable(event.error.message)}; \`imgstore cleanup\` may free some`
      const wait = event.dueAt === undefined ? '' : ` in ${formatDuration(event.dueAt - event.at)}`
      return `attempt ${event.attempt} at ${step} failed, next${wait}${reason}`
    }
    case 'failed':
      return `FAILED${event.from ? ` from ${event.from}` : ''}${reason}`
    case 'held':
      return `stays ${event.to ?? event.from ?? 'as it is'}${reason}`
    case 'mended':
      return ['mended', event.to ?? '', ...parenthesis(detailNotes(event.detail))]
        .filter(Boolean)
        .join(' ')
    case 'canceled':
      return `canceled${reason}`
    case 'removed':
      return 'REMOVED'
  }
}

/** One line of history: time, image, what happened. */
export function eventLine(event: RunEvent): string {
  const from = event.kind === 'transition' && event.from && event.to ? `${event.from} → ` : ''
  return `${formatTime(event.at)}  ${printable(event.image)}  ${from}${eventText(event)}`
}

function parenthesis(notes: readonly string[]): string[] {
  return notes.length === 0 ? [] : [`(${notes.join(', ')})`]
}

function transitionNotes(event: RunEvent): string[] {
  const notes = detailNotes(event.detail)
  if (event.durationMs !== undefined && event.durationMs >= 100)
    notes.push(formatDuration(event.durationMs))
  return notes
}

/** What a step had to say: `size_bytes` as a size, counts by their name, the rest where a line has room for it. */
function detailNotes(detail: Record<string, unknown> | undefined): string[] {
  return Object.entries(detail ?? {}).flatMap(([key, value]) => {
    const label = key.replace(/^is_|_(bytes|ms|count)$/g, '').replaceAll('_', ' ')
    if (value === true) return [label]
    if (typeof value === 'string') return [`${label} ${printable(value)}`]
    if (typeof value !== 'number' || value === 0) return []
    if (key.endsWith('_bytes')) return [`${label} ${formatBytes(value)}`]
    if (key.endsWith('_ms')) return [`${label} ${formatDuration(value)}`]
    return [`${label} ${value.toLocaleString('en-US')}`]
  })
}

/** Bytes, share, rate and time left, as far as they are known; with a bar when `barWidth` is given. */
export function progressText(progress: Progress, pace: Pace, barWidth = 0): string {
  const parts: string[] = []
  const total = progress.totalBytes
  if (total === undefined || total <= 0) parts.push(formatBytes(progress.doneBytes))
  else {
    const ratio = Math.min(1, progress.doneBytes / total)
    if (barWidth > 0) parts.push(bar(ratio, barWidth))
    parts.push(
      `${formatBytes(progress.doneBytes)} of ${formatBytes(total)} (${Math.floor(ratio * 100)} %)`,
    )
  }
  if (pace.bytesPerSecond !== undefined) parts.push(`${formatBytes(pace.bytesPerSecond)}/s`)
  if (pace.leftMs !== undefined && pace.leftMs >= 1) parts.push(`${leftText(pace.leftMs)} left`)
  return parts.join('  ')
}

/** Time left is a guess: whole seconds, upwards. */
function leftText(ms: number): string {
  const seconds = Math.ceil(ms / 1000)
  return seconds < 60 ? `${seconds} s` : formatDuration(seconds * 1000)
}
