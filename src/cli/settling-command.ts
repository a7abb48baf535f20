/** What commands share that bring an image somewhere and can wait until it is there. */
import {Flags} from '@oclif/core'
import {systemClock} from '../core/clock.ts'
import type {ErrorJson} from '../core/errors.ts'
import type {FollowEvent, ImageStatus} from '../core/image.ts'
import type {Store} from '../core/store.ts'
import {BaseCommand} from './base-command.ts'
import {exitOf, headline} from './describe.ts'
import {durationMs, timeoutFlag} from './flags.ts'
import {labelled, printable} from './print.ts'
import {openProgress, progressMode} from './progress.ts'

export type Outcome =
  'enqueued' | 'unchanged' | 'replaced' | 'reached' | 'failed' | 'held' | 'removed'

/** An image and what became of it; with `error` when the command exits with its code. */
export type SettleResult = Partial<ImageStatus> & {
  name: string
  outcome: Outcome
  error?: ErrorJson
}

export abstract class SettlingCommand extends BaseCommand {
  /** For commands that wait unless told not to. */
  static waitFlags = {
    wait: Flags.boolean({
      default: true,
      allowNo: true,
      description: 'Wait for the result (the default); --no-wait leaves the work to a worker.',
    }),
    ...timeoutFlag,
  }

  /** Waits for an image if asked to, with progress, and reports where it came to. */
  protected async settle(
    store: Store,
    status: ImageStatus,
    flags: {wait: boolean; timeout?: string | undefined; quiet: boolean},
    outcome: Outcome,
  ): Promise<SettleResult> {
    if (!flags.wait) return {...status, outcome}
    const timeoutMs = durationMs('timeout', flags.timeout)
    const settled = await this.follow(flags.quiet, status, (onEvent) =>
      store.images.settle(status.name, {
        onEvent,
        signal: this.signal,
        ...(timeoutMs === undefined ? {} : {timeoutMs}),
      }),
    )
    return this.report(status, settled, flags.quiet)
  }

  /** Draws what `body` hands to `onEvent`, and gives the terminal back before anything else is printed. */
  protected async follow<T>(
    isQuiet: boolean,
    status: ImageStatus,
    body: (onEvent: (event: FollowEvent) => void) => Promise<T>,
  ): Promise<T> {
    this.isFollowing = true
    const isTerminal = process.stdout.isTTY
    const view = await openProgress({
      mode: progressMode({
        isJson: this.jsonEnabled(),
        // An image without work under way has nothing to show; its state is printed at the end.
        isQuiet: isQuiet || !hasOpenRun(status),
        isTerminal,
      }),
      stream: process.stdout,
      clock: systemClock,
      status,
    })
    let wasStopped = true
    try {
      const result = await body(view.onEvent)
      wasStopped = false
      return result
    } finally {
      await view.close({wasStopped})
    }
  }

  private report(
    before: ImageStatus,
    settled: Awaited<ReturnType<Store['images']['settle']>>,
    isQuiet: boolean,
  ): SettleResult {
    const {outcome, status} = settled
    if (status === undefined) {
      if (!isQuiet) this.print(`Removed image ${before.name}`)
      return {name: before.name, outcome}
    }
    if (!isQuiet) this.print(headline(status))
    const error =
      outcome === 'failed' ? status.failed : outcome === 'held' ? status.held : undefined
    if (error === undefined) {
      if (!isQuiet && status.mountPoint !== undefined && status.state === 'ACTIVE')
        this.print(...labelled([['mounted at', printable(status.mountPoint)]]))
      return {...status, outcome}
    }
    this.exitStatus = exitOf(error)
    const hint = error.hint.replaceAll('NAME', status.name)
    if (!this.jsonEnabled()) this.printError({...error, hint})
    return {...status, outcome, error: {...error, hint}}
  }
}

function hasOpenRun(status: ImageStatus): boolean {
  return status.run !== undefined && ['pending', 'running', 'waiting'].includes(status.run.status)
}
