import {resolve} from 'node:path'
import {Args, Flags} from '@oclif/core'
import {BaseCommand} from '../cli/base-command.ts'
import {formatBytes, formatCount, printable} from '../cli/print.ts'
import {progressMode} from '../cli/progress.ts'
import {openStreamView} from '../cli/stream-view.ts'
import {systemClock} from '../core/clock.ts'
import type {BackupReport, Store} from '../core/store.ts'

export default class Backup extends BaseCommand {
  static override summary =
    'Copy the database, and the downloaded archives if asked, into one file.'
  static override description = `The copy is of one moment, and workers go on meanwhile. It is a plain tar of store.db and, with --blobs, of blobs/<sha256>.tar; every archive is checked while it is copied. Addresses of images may hold credentials, so the file is for its owner alone. What was written into images is not in it.

An archive that is damaged or gone is left out and named: after a restore it is fetched again.

Exit codes: 0 done, 3 done, but an archive that images need is left out, 11 the file is there already, 14 no space, 130 interrupted.`
  static override usage = 'backup <file> [flags]'
  static override examples = [
    {description: 'Copy the database.', command: '<%= config.bin %> backup ./imgstore.tar'},
    {
      description: 'The same with all archives, in the place of an older backup.',
      command: '<%= config.bin %> backup ./imgstore.tar --blobs --force',
    },
  ]

  static override args = {
    file: Args.string({
      description: 'Where the backup goes.',
      required: true,
      ignoreStdin: true,
    }),
  }

  static override flags = {
    blobs: Flags.boolean({
      char: 'b',
      default: false,
      description: 'Copy the downloaded archives, too.',
    }),
    force: Flags.boolean({default: false, description: 'Replace a file of that name.'}),
  }

  async run(): Promise<BackupReport> {
    const {args, flags} = await this.parse(Backup)
    return this.withStore(flags, 'read', async (store) => {
      const report = await this.copy(store, {
        path: resolve(args.file),
        withBlobs: flags.blobs,
        isForced: flags.force,
        isQuiet: flags.quiet,
      })
      if (report.leftOut.some(({reason}) => reason !== 'removed')) this.exitStatus = 3
      if (!flags.quiet) this.print(...reportLines(report, flags.blobs))
      return report
    })
  }

  private async copy(
    store: Store,
    o: {path: string; withBlobs: boolean; isForced: boolean; isQuiet: boolean},
  ): Promise<BackupReport> {
    const isTerminal = process.stdout.isTTY
    const mode = this.jsonEnabled()
      ? 'silent'
      : progressMode({isJson: false, isQuiet: o.isQuiet, isTerminal})
    const {signal} = this
    const view = await openStreamView({
      mode,
      stream: process.stdout,
      clock: systemClock,
      what: 'backup',
    })
    try {
      const {path, withBlobs, isForced} = o
      const {onProgress} = view
      return await store.maintenance.backup({path, withBlobs, isForced, signal, onProgress})
    } finally {
      view.close()
    }
  }
}

function reportLines(report: BackupReport, hasBlobs: boolean): string[] {
  const {path, sizeBytes, images, blobs, leftOut} = report
  const what = hasBlobs
    ? `${formatCount(images, 'image')}, ${formatCount(blobs.count, 'archive')}`
    : formatCount(images, 'image')
  const words = {
    removed: 'was removed meanwhile',
    gone: 'is not there',
    damaged: 'is damaged (`imgstore verify` moves it away)',
  }
  return [
    ...leftOut.map(
      ({digest, reason, images: names}) =>
        `LEFT OUT sha256:${digest} (of ${names.join(', ')}): it ${words[reason]}`,
    ),
    `Wrote ${printable(path)}: ${what}, ${formatBytes(sizeBytes)}`,
  ]
}
