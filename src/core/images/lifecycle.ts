/** The life of an image on a host, as one table. */
import type {Goal, ImageState} from '../image.ts'
import type {ImagePatch} from '../db/journal.ts'
import {defineMachine} from '../machine/define.ts'
import type {StepContext, StepOutcome} from '../machine/runner.ts'

export const imageSteps = [
  'begin',
  'download',
  'begin_unpack',
  'unpack',
  'publish',
  'prepare',
  'mount',
  'unmount',
  'erase',
] as const
export type ImageStep = (typeof imageSteps)[number]

export type ImageStepContext = StepContext<ImageState, Goal>
export type ImageOutcome = StepOutcome<ImagePatch>

const up = ['STORED', 'ACTIVE'] as const
const down = ['STORED', 'REMOVED'] as const

export const lifecycle = defineMachine<ImageState, Goal, ImageStep>('image', [
  {from: 'NEW', step: 'begin', to: 'DOWNLOADING', towards: up, retry: 'backoff'},
  {from: 'DOWNLOADING', step: 'download', to: 'DOWNLOADED', towards: up, retry: 'backoff'},
  {from: 'DOWNLOADED', step: 'begin_unpack', to: 'UNPACKING', towards: up, retry: 'backoff'},
  {from: 'UNPACKING', step: 'unpack', to: 'UNPACKED', towards: up, retry: 'backoff'},
  {from: 'UNPACKED', step: 'publish', to: 'STORED', towards: up, retry: 'backoff'},
  {from: 'STORED', step: 'prepare', to: 'ACTIVATING', towards: ['ACTIVE'], retry: 'backoff'},
  {
    from: 'ACTIVATING',
    step: 'mount',
    to: 'ACTIVE',
    towards: ['ACTIVE'],
    retry: 'backoff',
    heldAt: 'STORED',
  },
  {
    from: 'ACTIVATING',
    step: 'unmount',
    to: 'STORED',
    towards: down,
    retry: 'backoff',
    heldAt: 'ACTIVATING',
  },
  {
    from: 'ACTIVE',
    step: 'unmount',
    to: 'STORED',
    towards: down,
    retry: 'backoff',
    heldAt: 'ACTIVE',
  },
  ...(
    ['NEW', 'DOWNLOADING', 'DOWNLOADED', 'UNPACKING', 'UNPACKED', 'STORED', 'FAILED'] as const
  ).map(
    (from) =>
      ({from, step: 'erase', to: 'REMOVED', towards: ['REMOVED'], retry: 'backoff'}) as const,
  ),
])
