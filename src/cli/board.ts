/** The steps of the state machine, grouped into the few phases that a person follows. */
import type {FollowEvent, Goal, ImageState, ImageStatus} from '../core/image.ts'

/** Something that shows progress. It owns its stream until it is closed. */
export type ProgressView = {
  onEvent: (event: FollowEvent) => void
  /** Gives the terminal back. `wasStopped`: the wait ended before the image arrived anywhere. */
  close: (o?: {wasStopped: boolean}) => Promise<void>
}

export const phaseKeys = ['download', 'unpack', 'store', 'activate', 'unmount', 'erase'] as const
export type PhaseKey = (typeof phaseKeys)[number]

type Phase = {
  title: string
  /** Steps of the machine, in order; the transition of the last one ends the phase. */
  steps: readonly [string, ...string[]]
}

export const phases: Readonly<Record<PhaseKey, Phase>> = {
  download: {title: 'Download', steps: ['begin', 'download']},
  unpack: {title: 'Unpack', steps: ['begin_unpack', 'unpack']},
  store: {title: 'Store', steps: ['publish']},
  activate: {title: 'Activate', steps: ['prepare', 'mount']},
  unmount: {title: 'Unmount', steps: ['unmount']},
  erase: {title: 'Erase', steps: ['erase']},
}

const upward: readonly PhaseKey[] = ['download', 'unpack', 'store', 'activate']

// How many phases of `upward` lie behind an image in each state. A failed one may begin anywhere.
const behind: Readonly<Record<ImageState, number>> = {
  NEW: 0,
  DOWNLOADING: 0,
  DOWNLOADED: 1,
  UNPACKING: 1,
  UNPACKED: 2,
  STORED: 3,
  ACTIVATING: 3,
  ACTIVE: 4,
  FAILED: 0,
}

/** The phases between where an image is and its goal. */
export function phasesOf(status: Pick<ImageStatus, 'state' | 'goal'>): PhaseKey[] {
  const isUp = status.state === 'ACTIVE' || status.state === 'ACTIVATING'
  const ends: Readonly<Record<Goal, () => PhaseKey[]>> = {
    ACTIVE: () => upward.slice(behind[status.state]),
    STORED: () => (isUp ? ['unmount'] : upward.slice(behind[status.state], 3)),
    REMOVED: () => (isUp ? ['unmount', 'erase'] : ['erase']),
  }
  return ends[status.goal]()
}

/** What an event means for the board: which phase is at work, and whether this ends it. */
export type Move =
  | {kind: 'working'; phase: PhaseKey}
  | {kind: 'ended'; phase: PhaseKey}
  | {kind: 'failed'; phase?: PhaseKey}
  | {kind: 'held'}
  | {kind: 'none'}

export function moveOf(event: FollowEvent): Move {
  if (event.kind === 'progress') return working(event.step)
  const {kind, step} = event.event
  switch (kind) {
    case 'transition': {
      const phase = phaseOf(step)
      if (phase === undefined) return {kind: 'none'}
      return {kind: phases[phase].steps.at(-1) === step ? 'ended' : 'working', phase}
    }
    case 'retry':
      return working(step)
    case 'failed': {
      const phase = phaseOf(step)
      return phase === undefined ? {kind: 'failed'} : {kind: 'failed', phase}
    }
    case 'held':
    case 'canceled':
      return {kind: 'held'}
    case 'removed':
      return {kind: 'ended', phase: 'erase'}
    case 'mended':
      return {kind: 'none'}
  }
}

function working(step: string | undefined): Move {
  const phase = phaseOf(step)
  return phase === undefined ? {kind: 'none'} : {kind: 'working', phase}
}

function phaseOf(step: string | undefined): PhaseKey | undefined {
  return step === undefined ? undefined : phaseKeys.find((key) => phases[key].steps.includes(step))
}
