import {Args, Flags, type Interfaces} from '@oclif/core'
import {BaseCommand} from '../cli/base-command.ts'
import {hereFlags} from '../cli/flags.ts'
import {formatBytes, formatCount, printable} from '../cli/print.ts'
import {progressMode} from '../cli/progress.ts'
import {openStreamView} from '../cli/stream-view.ts'
import {systemClock} from '../core/clock.ts'
import type {Repair, RepairedReport, Store} from '../core/store.ts'

export default class Verify extends BaseCommand {
  static override summary = 'Read the downloaded archives again and check their digests.'
  static override description = `A damaged archive is moved to quarantine, so that no image is made from it again, and fetched again from where its image came from. Images that are mounted or served from damaged bytes are taken out of use and made anew.

Exit codes: 0 all is well, 10 no such image, 12 something was damaged or missing, mended or not.`
  static override usage = 'verify [name] [flags]'
  static override examples = [
    {description: 'Check everything.', command: '<%= config.bin %> verify'},
    {description: 'Check the archive of one image.', command: '<%= config.bin %> verify debian'},
    {
      description: 'Only look, and move what is damaged out of the way.',
      command: '<%= config.bin %> verify --no-repair',
    },
  ]

  static override args = {
    name: Args.string({
      description: 'Name of the image; without it, every archive of the store.',
      ignoreStdin: true,
    }),
  }

  static override flags: Interfaces.FlagInput = {
    repair: Flags.boolean({
      default: true,
      allowNo: true,
      description:
        'Fetch again what is damaged or missing (the default); --no-repair leaves that to `retry`.',
    }),
    ...hereFlags,
  }

  async run(): Promise<RepairedReport> {
    const {args, flags} = await this.parse(Verify)
    return this.withStore(flags, 'write', async (store) => {
      const isRepairing = flags['repair'] === true
      const report = await this.check(store, args.name, {isQuiet: flags.quiet, isRepairing})
      // Mended or not: whoever watches a disk must hear that it lost something.
      if (report.damaged.length + report.missing.length + report.damagedTrees.length > 0)
        this.exitStatus = 12
      this.print(...reportLines(report, flags.quiet))
      return report
    })
  }

  private async check(
    store: Store,
    name: string | undefined,
    {isQuiet, isRepairing}: {isQuiet: boolean; isRepairing: boolean},
  ): Promise<RepairedReport> {
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
      return await store.maintenance.verify({
        ...image,
        isRepairing,
        signal: this.signal,
        onProgress,
      })
    } finally {
      view.close()
    }
  }
}

function repairLine({what, of, error}: Repair): string {
  const name = what === 'blob' ? `sha256:${of}` : printable(of)
  if (error === undefined)
    return what === 'blob' ? `FETCHED AGAIN ${name}` : `MADE ANEW image ${name}`
  const hint = error.hint.replaceAll('NAME', of)
  return `NOT MENDED ${name}: ${printable(error.message)} (${error.code}). ${printable(hint)}`
}

/** Quiet or not: what is wrong is said. */
function reportLines(report: RepairedReport, isQuiet: boolean): string[] {
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
        `DAMAGED ${printable(path)} (of image ${image}): ${printable(reason)}`,
    ),
    ...report.missing.map((blob) => `MISSING sha256:${blob.digest} (${usedBy(blob.images)})`),
    ...report.repairs.map(repairLine),
    ...(isQuiet
      ? []
      : [
          `Checked ${formatCount(report.checked, 'archive')}, ${formatBytes(report.bytes)}: ${report.damaged.length} damaged, ${report.missing.length} missing`,
        ]),
  ]
}
