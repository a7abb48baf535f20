import {Args} from '@oclif/core'
import {BaseCommand} from '../cli/base-command.ts'
import {formatBytes, formatCount, printable} from '../cli/print.ts'
import {progressMode} from '../cli/progress.ts'
import {openStreamView} from '../cli/stream-view.ts'
import {systemClock} from '../core/clock.ts'
import type {Store, VerifyReport} from '../core/store.ts'

export default class Verify extends BaseCommand {
  static override summary = 'Read the downloaded archives again and check their digests.'
  static override description = `A damaged archive is moved to quarantine, so that no image is made from it again; \`retry\` fetches it anew.

Exit codes: 0 all is well, 10 no such image, 12 something is damaged or missing.`
  static override usage = 'verify [name] [flags]'
  static override examples = [
    {description: 'Check everything.', command: '<%= config.bin %> verify'},
    {description: 'Check the archive of one image.', command: '<%= config.bin %> verify debian'},
  ]

  static override args = {
    name: Args.string({
      description: 'Name of the image; without it, every archive of the store.',
      ignoreStdin: true,
    }),
  }

  async run(): Promise<VerifyReport> {
    const {args, flags} = await this.parse(Verify)
    return this.withStore(flags, 'write', async (store) => {
      const report = await this.check(store, args.name, flags.quiet)
      if (report.damaged.length + report.missing.length + report.damagedTrees.length > 0)
        this.exitStatus = 12
      if (!flags.quiet) this.print(...reportLines(report))
      return report
    })
  }

  private async check(
    store: Store,
    name: string | undefined,
    isQuiet: boolean,
  ): Promise<VerifyReport> {
    const isTerminal = process.stdout.isTTY
    // With --json the report is one document; progress has no place in it.
    const mode = this.jsonEnabled() ? 'silent' : progressMode({isJson: false, isQuiet, isTerminal})
    const view = await openStreamView({
      mode,
      stream: process.stdout,
      clock: systemClock,
      what: 'verify',
    })
    try {
      const image = name === undefined ? {} : {image: name}
      const {onProgress} = view
      return await store.maintenance.verify({...image, signal: this.signal, onProgress})
    } finally {
      view.close()
    }
  }
}

function reportLines(report: VerifyReport): string[] {
  const usedBy = (images: readonly string[]): string =>
    images.length === 0 ? 'used by no image' : `used by ${images.join(', ')}`
  return [
    ...report.damaged.map((blob) => {
      const moved =
        blob.quarantinedAs === undefined ? '' : `; moved to ${printable(blob.quarantinedAs)}`
      return `DAMAGED sha256:${blob.digest} (${usedBy(blob.images)}): ${printable(blob.reason)}${moved}`
    }),
    ...report.damagedTrees.map(
      ({image, path, reason}) =>
        `DAMAGED ${printable(path)} (of image ${image}): ${printable(reason)}; \`imgstore convert ${image} --backend dir\` makes its tree anew`,
    ),
    ...report.missing.map((blob) => `MISSING sha256:${blob.digest} (${usedBy(blob.images)})`),
    `Checked ${formatCount(report.checked, 'archive')}, ${formatBytes(report.bytes)}: ${report.damaged.length} damaged, ${report.missing.length} missing`,
  ]
}
