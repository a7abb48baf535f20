/** Progress of one long stream of bytes, such as verifying every blob: a bar on a terminal, lines elsewhere. */
import {plainJson} from '../core/log.ts'
import type {Clock} from '../core/clock.ts'
import {progressText} from './describe.ts'
import {LineThrottle, StepPacer} from './pace.ts'
import type {ProgressMode} from './progress.ts'
import {formatBytes, toJson} from './print.ts'

/** `digest` names what the bytes belong to, where they belong to one blob. */
export type StreamProgress = {digest?: string; doneBytes: number; totalBytes: number}

export type StreamView = {
  onProgress: (progress: StreamProgress) => void
  /** Gives the terminal back. */
  close: () => void
}

/** Opens the view of a stream; `what` is a noun for it ("verify"). */
export async function openStreamView(o: {
  mode: ProgressMode
  stream: NodeJS.WriteStream
  clock: Clock
  what: string
}): Promise<StreamView> {
  const pacer = new StepPacer()
  const throttle = new LineThrottle(o.clock)
  const close = (): void => undefined
  switch (o.mode) {
    case 'terminal':
      return openBar(o.stream, o.clock)
    case 'silent':
      return {onProgress: close, close}
    case 'lines':
      return {
        onProgress: (p) => {
          const progress = {doneBytes: p.doneBytes, totalBytes: p.totalBytes, at: o.clock.now()}
          const pace = pacer.next(o.what, progress)
          if (throttle.isDue(o.what, p))
            o.stream.write(`${o.what}: ${progressText(progress, pace)}\n`)
        },
        close,
      }
    case 'json':
      return {
        onProgress: (p) => {
          if (throttle.isDue(o.what, p))
            o.stream.write(
              `${plainJson(JSON.stringify(toJson({kind: 'progress', step: o.what, ...p})))}\n`,
            )
        },
        close,
      }
  }
}

async function openBar(stream: NodeJS.WriteStream, clock: Clock): Promise<StreamView> {
  const {default: cliProgress} = await import('cli-progress')
  const pacer = new StepPacer()
  const bar = new cliProgress.SingleBar(
    {
      stream,
      format: '{bar}  {text}',
      clearOnComplete: true,
      hideCursor: true,
      barsize: 24,
      fps: 5,
      // Ctrl-C is the command's to handle; it closes this view.
      gracefulExit: false,
    },
    cliProgress.Presets.shades_classic,
  )
  let isStarted = false
  return {
    onProgress: ({doneBytes, totalBytes, digest}) => {
      const progress = {doneBytes, totalBytes, at: clock.now()}
      const pace = pacer.next('stream', progress)
      const name = digest === undefined ? '' : `  sha256:${digest.slice(0, 12)}`
      const text = `${progressText(progress, pace)}${name}`
      if (!isStarted) {
        isStarted = true
        bar.start(totalBytes, doneBytes, {text: formatBytes(doneBytes)})
      }
      bar.setTotal(totalBytes)
      bar.update(doneBytes, {text})
    },
    close: () => {
      if (isStarted) bar.stop()
    },
  }
}
