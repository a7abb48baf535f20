import {Flags} from '@oclif/core'
import {BaseCommand} from '../cli/base-command.ts'
import {formatBytes, formatCount, printable, table} from '../cli/print.ts'
import type {CleanupReport} from '../core/store.ts'

export default class Cleanup extends BaseCommand {
  static override summary = 'Remove what no image needs any more.'
  static override description = `Unused blobs, stale downloads, staging trees, overlays and mounts of images that are gone, and the history of runs that were over long ago. Never what an image or a run needs.

Exit codes: 0 done, 3 something could not be removed (it is named).`
  static override usage = 'cleanup [flags]'
  static override examples = [
    {description: 'Show what would be removed.', command: '<%= config.bin %> cleanup --dry-run'},
    {description: 'Remove it.', command: '<%= config.bin %> cleanup'},
  ]

  static override flags = {
    'dry-run': Flags.boolean({
      char: 'n',
      default: false,
      description: 'Only show what would be removed.',
    }),
  }

  async run(): Promise<CleanupReport> {
    const {flags} = await this.parse(Cleanup)
    return this.withStore(flags, 'write', async (store) => {
      const report = await store.maintenance.cleanup({isDryRun: flags['dry-run']})
      const isLeft = report.items.some((item) => item.error !== undefined)
      if (isLeft) this.exitStatus = 3
      if (!flags.quiet) this.print(...reportLines(report))
      return report
    })
  }
}

function reportLines(report: CleanupReport): string[] {
  const {items, freedBytes, isDryRun, forgotten} = report
  const rows = items.map((item) => [
    item.kind,
    formatBytes(item.sizeBytes),
    printable(item.path),
    item.error ? `NOT REMOVED: ${printable(item.error.message)}` : printable(item.reason),
  ])
  const removed = items.filter((item) => item.error === undefined).length
  const summary = isDryRun
    ? `Would remove ${formatCount(items.length, 'item')} and free ${formatBytes(freedBytes)}`
    : `Removed ${formatCount(removed, 'item')}, freed ${formatBytes(freedBytes)}`
  const {runs, events} = forgotten
  const history =
    runs + events === 0
      ? []
      : [
          `${isDryRun ? 'Would forget' : 'Forgot'} ${formatCount(runs, 'old run')} and ${formatCount(events, 'event')}`,
        ]
  if (items.length === 0) return [...history, `Nothing to remove: freed ${formatBytes(0)}`]
  return [...table(['KIND', 'SIZE', 'PATH', 'WHY'], rows, ['SIZE']), '', ...history, summary]
}
