import {resolve} from 'node:path'
import {Args, Flags} from '@oclif/core'
import {BaseCommand} from '../cli/base-command.ts'
import {formatCount, printable} from '../cli/print.ts'
import {progressMode} from '../cli/progress.ts'
import {openStreamView} from '../cli/stream-view.ts'
import {systemClock} from '../core/clock.ts'
import type {RestoreReport} from '../core/store.ts'

export default class Restore extends BaseCommand {
  static override summary = 'Put a backup in the place of the database.'
  static override description = `Everything in it is checked before anything changes; then the database is replaced in one step, and the old one is kept beside it as store.db.before-restore-<time>. No worker and no other command may have the store open. The store keeps its own id of this host.

Images whose trees are not here are set back: the next worker makes them from their archives, or fetches them. What only the old database knew is for \`imgstore cleanup\`, with what was written into it.

Exit codes: 0 done, 10 no such file, 11 there are images already (--force) or the store is in use, 12 the backup is damaged or none, 14 no space, 15 a newer imgstore made it, 130 interrupted.`
  static override usage = 'restore <file> [flags]'
  static override examples = [
    {
      description: 'Restore into a new store.',
      command:
        '<%= config.bin %> restore ./imgstore.tar --store ./restored/store --db ./restored/store.db',
    },
    {
      description: 'Restore in the place of the store that is there.',
      command: '<%= config.bin %> restore ./imgstore.tar --force',
    },
  ]

  static override args = {
    file: Args.string({
      description: 'The backup, as `imgstore backup` wrote it.',
      required: true,
      ignoreStdin: true,
    }),
  }

  static override flags = {
    force: Flags.boolean({
      default: false,
      description: 'Replace a database that has images.',
    }),
  }

  async run(): Promise<RestoreReport> {
    const {args, flags} = await this.parse(Restore)
    const {settings, origins} = this.configure(flags)
    const {restoreStore} = await import('../core/store.ts')
    const isTerminal = process.stdout.isTTY
    const mode = this.jsonEnabled()
      ? 'silent'
      : progressMode({isJson: false, isQuiet: flags.quiet, isTerminal})
    const {signal} = this
    const view = await openStreamView({
      mode,
      stream: process.stdout,
      clock: systemClock,
      what: 'restore',
    })
    let report: RestoreReport
    try {
      const {onProgress} = view
      const request = {path: resolve(args.file), isForced: flags.force, signal, onProgress}
      report = await restoreStore({settings, origins, log: this.logger(settings, origins)}, request)
    } finally {
      view.close()
    }
    if (!flags.quiet) this.print(...reportLines(report))
    return report
  }
}

function reportLines({database, kept, images, blobs, setBack}: RestoreReport): string[] {
  const archives = blobs.count === 0 ? '' : ` and ${formatCount(blobs.count, 'archive')}`
  return [
    ...setBack.map(
      ({image, from, to, reason}) => `Set back ${image}: ${from} → ${to} (${printable(reason)})`,
    ),
    ...(kept === undefined ? [] : [`Kept the old database as ${printable(kept)}`]),
    `Restored ${formatCount(images, 'image')}${archives} into ${printable(database)}`,
  ]
}
