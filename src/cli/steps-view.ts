/** Progress on a terminal: one line a phase, redrawn in place by listr2. Loaded only when a terminal is there. */
import {Listr, ListrLogger, ProcessOutput, type ListrTask} from 'listr2'
import type {FollowEvent, ImageStatus} from '../core/image.ts'
import {moveOf, phases, phasesOf, type PhaseKey, type ProgressView} from './board.ts'
import {eventText, progressText} from './describe.ts'
import {StepPacer} from './pace.ts'

type Ending =
  {kind: 'done'; title: string} | {kind: 'skipped'; title: string} | {kind: 'failed'; title: string}
type Line = {
  key: PhaseKey
  title: string
  /** Set while listr2 runs the line's task. */
  show?: (output: string) => void
  ending: Promise<Ending>
  isEnded: boolean
  end: (ending: Ending) => void
}

const BAR_WIDTH = 24

export function openStepsView(
  stream: NodeJS.WriteStream,
  status: Pick<ImageStatus, 'state' | 'goal'>,
): ProgressView {
  const lines = phasesOf(status).map((key) => newLine(key))
  const pacer = new StepPacer()
  let latest: {key: PhaseKey; output: string} | undefined

  /** The line of a phase; all before it that never began had nothing to do. */
  const lineOf = (key: PhaseKey): Line | undefined => {
    const index = lines.findIndex((line) => line.key === key)
    for (const line of lines.slice(0, Math.max(0, index)))
      line.end({kind: 'skipped', title: `${line.title}: nothing to do`})
    return lines[index]
  }
  const show = (key: PhaseKey, output: string): void => {
    latest = {key, output}
    lineOf(key)?.show?.(output)
  }
  const onEvent = (event: FollowEvent): void => {
    const move = moveOf(event)
    const text =
      event.kind === 'event'
        ? eventText(event.event)
        : progressText(event.progress, pacer.next(event.step, event.progress), BAR_WIDTH)
    switch (move.kind) {
      case 'working':
        show(move.phase, text)
        break
      case 'ended':
        lineOf(move.phase)?.end({kind: 'done', title: `${phases[move.phase].title}: ${text}`})
        break
      case 'failed': {
        const line = move.phase === undefined ? lines.find((l) => !l.isEnded) : lineOf(move.phase)
        line?.end({kind: 'failed', title: `${line.title}: ${text}`})
        break
      }
      case 'held': {
        const line = lines.find((l) => !l.isEnded)
        line?.end({kind: 'skipped', title: `${line.title}: ${text}`})
        break
      }
      case 'none':
    }
  }

  const tasks = lines.map((line): ListrTask => ({
    title: line.title,
    task: async (_, task) => {
      line.show = (output) => {
        task.output = output
      }
      // What happened before listr2 came to this line.
      if (latest?.key === line.key && !line.isEnded) line.show(latest.output)
      const ending = await line.ending
      delete line.show
      if (ending.kind === 'failed') throw new Error(ending.title)
      if (ending.kind === 'skipped') task.skip(ending.title)
      else task.title = ending.title
    },
  }))
  const drawn = runTasks(tasks, stream)
  return {
    onEvent,
    close: async (o) => {
      const running = lines.find((line) => !line.isEnded)
      if (o?.wasStopped) running?.end({kind: 'failed', title: `${running.title}: stopped waiting`})
      for (const line of lines) line.end({kind: 'skipped', title: `${line.title}: nothing to do`})
      await drawn
    },
  }
}

function newLine(key: PhaseKey): Line {
  const {promise, resolve} = Promise.withResolvers<Ending>()
  const line: Line = {
    key,
    title: phases[key].title,
    ending: promise,
    isEnded: false,
    end: (ending) => {
      line.isEnded = true
      resolve(ending)
    },
  }
  return line
}

/** A failed task ends the drawing as it should look; the failure itself is reported by the command. */
async function runTasks(tasks: ListrTask[], stream: NodeJS.WriteStream): Promise<void> {
  const logger = new ListrLogger({
    useIcons: true,
    toStderr: [],
    processOutput: new ProcessOutput(withSize(stream), process.stderr),
  })
  const listr = new Listr(tasks, {
    renderer: 'default',
    rendererOptions: {logger, formatOutput: 'truncate', collapseSkips: true},
    fallbackRendererCondition: false,
    silentRendererCondition: false,
    forceTTY: true,
    // Signals belong to the command, which lets the work end in good order.
    registerSignalListeners: false,
  })
  try {
    await listr.run()
  } catch {
    // Drawn already.
  }
}

/** A terminal that does not know its size says 0, which would cut everything to nothing. */
function withSize(stream: NodeJS.WriteStream): NodeJS.WriteStream {
  if (stream.columns > 0 && stream.rows > 0) return stream
  const size = {columns: {value: stream.columns || 80}, rows: {value: stream.rows || 24}}
  return Object.create(stream, size) as NodeJS.WriteStream
}
