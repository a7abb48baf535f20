/**
 * What every command shares: global flags, settings, the open store, and how a failure leaves the program.
 *
 * Nothing heavy is imported here: the store, listr2 and cli-progress are loaded by the commands that use them, when
 * they use them, because every command pays for this file at its start.
 */
import {join, resolve} from 'node:path'
import {Command, Errors, Flags} from '@oclif/core'
import {BugError} from '../core/assert.ts'
import {errorToJson, fail, toImgstoreError, type ImgstoreError} from '../core/errors.ts'
import {plainJson, type Logger} from '../core/log.ts'
import {
  resolveSettings,
  type ResolvedSettings,
  type SettingOrigins,
  type Settings,
} from '../core/settings.ts'
import type {Store} from '../core/store.ts'
import {settingFlags, settingValues} from './flags.ts'
import {createCliLogger} from './log.ts'
import {printable, toJson} from './print.ts'

export type Configured = ResolvedSettings
type ParsedFlags = Readonly<Record<string, unknown>>

export abstract class BaseCommand extends Command {
  static override enableJsonFlag = true

  static override baseFlags = {
    ...settingFlags(['store', 'db', 'logLevel'], 'GLOBAL'),
    config: Flags.string({
      description: "Settings file, instead of config.json in the user's configuration directory.",
      helpValue: '<path>',
      helpGroup: 'GLOBAL',
    }),
    quiet: Flags.boolean({
      char: 'q',
      description: 'Print less: no progress, and only the bare names, ids or states asked for.',
      helpGroup: 'GLOBAL',
    }),
  }

  /** The process's exit code when `run` returns: a command that reports a failure as its result sets it. */
  protected exitStatus = 0
  /** With --json: one object a line as things happen, the last line being the result. */
  protected isFollowing = false
  /** Set where Ctrl-C is meant for a program that shares the terminal; SIGTERM still stops the command. */
  protected leavesInterruptAlone = false
  private readonly controller = new AbortController()
  private isPipeClosed = false
  private undo: (() => void)[] = []

  /** The settings for these flags. May be called again, to see changes of the file. */
  protected configure(flags: ParsedFlags): Configured {
    const given = typeof flags['config'] === 'string' ? flags['config'] : undefined
    const config =
      given === undefined
        ? {path: join(this.config.configDir, 'config.json'), isRequired: false}
        : {path: resolve(given), isRequired: true}
    const values = settingValues(flags, this.ctor.id)
    return resolveSettings({flags: values, config, dataDir: this.config.dataDir})
  }

  /** Opens the store, hands it to `body` and closes it, whatever happens. `repair`: whatever its state is. */
  protected async withStore<T>(
    flags: ParsedFlags,
    access: 'read' | 'write' | 'repair',
    body: (store: Store) => Promise<T>,
  ): Promise<T> {
    const {settings, origins} = this.configure(flags)
    const {openStore} = await import('../core/store.ts')
    const log = this.logger(settings, origins)
    const how = access === 'repair' ? ({access: 'read', isForRepair: true} as const) : {access}
    const store = await openStore({settings, origins, log, role: 'command', ...how})
    try {
      return await body(store)
    } finally {
      await store.close()
    }
  }

  /** A command reports by its output; of its log a person sees warnings, unless they ask for more. */
  protected logger(settings: Settings, origins: SettingOrigins): Logger {
    return createCliLogger({
      level: origins.logLevel === 'default' ? 'warn' : settings.logLevel,
      isJson: settings.logFormat === 'json',
      stream: process.stderr,
    })
  }

  /**
   * Aborts at the first SIGINT or SIGTERM, and when nobody reads our output any more; the command then leaves things
   * whole and ends. A second signal ends the process at once. Signals are caught from the first use on.
   */
  protected get signal(): AbortSignal {
    if (this.undo.length === 0) {
      const onSignal = (name: NodeJS.Signals): void => {
        if (name === 'SIGINT' && this.leavesInterruptAlone) return
        if (this.controller.signal.aborted) process.exit(130)
        this.controller.abort()
      }
      const onOutputError = (error: NodeJS.ErrnoException): void => {
        if (error.code !== 'EPIPE') return
        this.isPipeClosed = true
        this.controller.abort()
      }
      process.on('SIGINT', onSignal)
      process.on('SIGTERM', onSignal)
      process.stdout.on('error', onOutputError)
      this.undo.push(
        () => process.off('SIGINT', onSignal),
        () => process.off('SIGTERM', onSignal),
        () => process.stdout.off('error', onOutputError),
      )
    }
    return this.controller.signal
  }

  /** The exit code of a command that only watched when it was stopped; 0 when it came to its end. */
  protected get stoppedStatus(): number {
    return this.controller.signal.aborted && !this.isPipeClosed ? 130 : 0
  }

  /** Prints lines for a person; nothing with --json. */
  protected print(...lines: string[]): void {
    if (this.jsonEnabled() || this.isPipeClosed) return
    for (const line of lines) process.stdout.write(`${line}\n`)
  }

  /** Prints a remark that is not part of the result: to a person at a terminal only. */
  protected remark(...lines: string[]): void {
    if (this.jsonEnabled() || !process.stdout.isTTY) return
    for (const line of lines) process.stderr.write(`${line}\n`)
  }

  override logJson(json: unknown): void {
    if (this.isPipeClosed) return
    const text = this.isFollowing
      ? JSON.stringify({kind: 'result', ...(json as Record<string, unknown>)})
      : JSON.stringify(json, null, 2)
    process.stdout.write(`${plainJson(text)}\n`)
  }

  protected override toSuccessJson(result: unknown): unknown {
    return toJson(result)
  }

  protected override toErrorJson(error: unknown): unknown {
    const reported = asReported(error)
    return {error: toJson({...errorToJson(reported), hint: hintFor(reported)})}
  }

  /** Reports a failure: words for a person or JSON, the exit code of its row, and never a stack but for bugs. */
  protected override catch(error: Error): Promise<never> {
    if (isExit(error)) throw error
    const reported = asReported(error)
    const wasStopped = this.controller.signal.aborted && reported.code === 'interrupted'
    if (wasStopped && this.isPipeClosed) throw exit(0)
    if (this.jsonEnabled()) this.logJson(this.toErrorJson(error))
    else this.printError(reported, hintFor(reported))
    throw exit(reported.exit)
  }

  /** Writes a failure to standard error, as every failure looks. */
  protected printError(
    error: {code: string; message: string; hint: string; cause?: unknown},
    hint = error.hint,
  ): void {
    const {bin} = this.config
    const isUsage = error.code === 'wrong_usage'
    const usage = usageOf(this.ctor)
    const lines = [`Error: ${printable(error.message)}`]
    if (isUsage) lines.push(`Usage: ${bin} ${usage.replace(' [flags]', '')}`)
    const command = this.ctor.id.replaceAll(':', ' ')
    lines.push(`Try: ${isUsage ? `${bin} ${command} --help` : printable(hint)}`)
    // Only a bug shows where it happened: whoever reports it needs to say.
    if (error.code === 'internal' && error.cause instanceof Error)
      lines.push(...(error.cause.stack ?? '').split('\n').slice(1, 9).map(printable))
    process.stderr.write(`${lines.join('\n')}\n`)
  }

  protected override async finally(error: Error | undefined): Promise<void> {
    for (const undo of this.undo) undo()
    this.undo = []
    await super.finally(error)
  }

  protected override async _run<T>(): Promise<T> {
    const result = await super._run<T>()
    if (this.exitStatus !== 0) throw exit(this.exitStatus)
    return result
  }
}

/** Ends the command with an exit code, silently: whatever there was to say has been said. */
function exit(code: number): Error {
  return Object.assign(new Errors.ExitError(code), {skipOclifErrorHandling: true})
}

function isExit(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EEXIT'
}

/** Any thrown value as a row of the error table; oclif's complaints about the command line are wrong usage. */
function asReported(error: unknown): ImgstoreError {
  if (error instanceof BugError) {
    const reason = error.message.replace(/^this is a bug in imgstore: /, '')
    return fail('internal', {reason}, {cause: error})
  }
  if (error instanceof Error && 'oclif' in error) {
    return fail('wrong_usage', {reason: usageReason(error)}, {cause: error})
  }
  return toImgstoreError(error)
}

/** oclif's words in one line; of missing arguments the names alone, as it wraps their descriptions. */
function usageReason(error: Error): string {
  const lines = error.message.split('\n').map((line) => line.trim())
  const args = 'args' in error && Array.isArray(error.args) ? error.args : []
  if (args.length > 0 && lines[0]?.startsWith('Missing'))
    return `${lines[0]} ${args.map((arg: {name: string}) => arg.name).join(', ')}`
  return lines.filter((line) => line !== '' && !line.startsWith('See more help')).join(' ')
}

/** The hint with the image's name in it, fit to be copied. */
function hintFor(error: ImgstoreError): string {
  const name = error.details['name']
  const isName = typeof name === 'string' && /^[\w.-]+$/.test(name)
  return isName ? error.hint.replaceAll('NAME', name) : error.hint
}

function usageOf(command: typeof Command): string {
  const usage = Array.isArray(command.usage) ? command.usage[0] : command.usage
  return usage ?? command.id.replaceAll(':', ' ')
}
