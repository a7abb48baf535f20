/**
 * Draws what an image goes through. The one owner of the terminal while a command waits: nothing else may write to
 * it between `openProgress` and `close`.
 */
import {plainJson} from '../core/log.ts'
import type {Clock} from '../core/clock.ts'
import type {ImageStatus} from '../core/image.ts'
import type {ProgressView} from './board.ts'
import {eventText, progressText} from './describe.ts'
import {toJson} from './print.ts'
import {LineThrottle, StepPacer, type Pace} from './pace.ts'

/** `terminal` redraws, `lines` prints a line a state, `json` prints an object a line, `silent` nothing. */
export type ProgressMode = 'terminal' | 'lines' | 'json' | 'silent'

export type ProgressOptions = {
  mode: ProgressMode
  stream: NodeJS.WriteStream
  clock: Clock
  /** Where the image stands as the wait begins. */
  status: Pick<ImageStatus, 'state' | 'goal'>
}

/** How a command shows progress on its standard output. */
export function progressMode(o: {
  isJson: boolean
  isQuiet: boolean
  isTerminal: boolean
}): ProgressMode {
  if (o.isJson) return 'json'
  if (o.isQuiet) return 'silent'
  return o.isTerminal ? 'terminal' : 'lines'
}

export async function openProgress(o: ProgressOptions): Promise<ProgressView> {
  switch (o.mode) {
    case 'terminal': {
      const {openStepsView} = await import('./steps-view.ts')
      return openStepsView(o.stream, o.status)
    }
    case 'lines':
      return openLinesView(o.stream, o.clock)
    case 'json':
      return openJsonView(o.stream)
    case 'silent':
      return {onEvent: () => undefined, close: () => Promise.resolve()}
  }
}

function openLinesView(stream: NodeJS.WriteStream, clock: Clock): ProgressView {
  const pacer = new StepPacer()
  const throttle = new LineThrottle(clock)
  return {
    onEvent: (event) => {
      if (event.kind === 'event') {
        stream.write(`${event.event.image}: ${eventText(event.event)}\n`)
        return
      }
      const pace = pacer.next(event.step, event.progress)
      if (!throttle.isDue(event.step, event.progress)) return
      stream.write(`${event.image}: ${event.step} ${progressText(event.progress, pace)}\n`)
    },
    close: () => Promise.resolve(),
  }
}

function openJsonView(stream: NodeJS.WriteStream): ProgressView {
  const pacer = new StepPacer()
  return {
    onEvent: (event) => {
      const pace = event.kind === 'progress' ? pacer.next(event.step, event.progress) : {}
      stream.write(`${plainJson(JSON.stringify(toJson({...event, ...wholePace(pace)})))}\n`)
    },
    close: () => Promise.resolve(),
  }
}

function wholePace(pace: Pace): Pace {
  return {
    ...(pace.bytesPerSecond === undefined ? {} : {bytesPerSecond: Math.round(pace.bytesPerSecond)}),
    ...(pace.leftMs === undefined ? {} : {leftMs: Math.round(pace.leftMs)}),
  }
}
