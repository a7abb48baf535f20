import {Args, Flags} from '@oclif/core'
import {BaseCommand} from '../../cli/base-command.ts'
import {openDiskView} from '../../cli/disk-view.ts'
import {count, networkFlags} from '../../cli/flags.ts'
import {formatBytes, formatCount, printable} from '../../cli/print.ts'
import type {VerifyChunkedReport} from '../../core/store.ts'

export default class DiskVerify extends BaseCommand {
  static override summary = 'Check the chunked form of a disk image, at rest or as it is served.'
  static override description = `The manifest is held against every rule of the format, and each chunk must be there with its size; over HTTP and in a bucket also with the headers that readers insist on. With --read-data every byte is compared with its digest.

Exit codes: 0 all is well, 10 there is no manifest, 12 something is wrong (it is named), 13 the server or the network failed, 130 interrupted.`
  static override usage = 'disk verify <dir|url> [flags]'
  static override examples = [
    {
      description: 'Check what is on the disk, every byte of it.',
      command: '<%= config.bin %> disk verify ./images/chunked/debian/r3 --read-data',
    },
    {
      description: 'Check what a browser gets.',
      command:
        '<%= config.bin %> disk verify http://127.0.0.1:8080/v1/images/debian/chunked/manifest',
    },
  ]

  static override args = {
    place: Args.string({
      description:
        'A directory, an http(s) address or s3://bucket/prefix: of the manifest, or of what it is in.',
      required: true,
      ignoreStdin: true,
    }),
  }
  static override flags = {
    'read-data': Flags.boolean({
      default: false,
      description: 'Read every chunk and compare its digest.',
    }),
    concurrency: Flags.string({
      description: 'Chunks checked at once (from 1 to 64).',
      helpValue: '<number>',
    }),
    ...networkFlags,
  }

  async run(): Promise<VerifyChunkedReport> {
    const {args, flags} = await this.parse(DiskVerify)
    const {settings} = this.configure(flags)
    const {signal} = this
    const {openDisks} = await import('../../core/store.ts')
    const disks = await openDisks(settings)
    const view = await openDiskView('verify', {isJson: this.jsonEnabled(), isQuiet: flags.quiet})
    let report: VerifyChunkedReport
    try {
      report = await disks.verify({
        place: args.place,
        readsData: flags['read-data'],
        signal,
        onProgress: view.onProgress,
        ...(flags.concurrency === undefined
          ? {}
          : {concurrency: count('concurrency', flags.concurrency, 64)}),
      })
    } finally {
      view.close()
    }
    if (report.problemCount > 0) this.exitStatus = 12
    this.print(...problemLines(report), ...(flags.quiet ? [] : summaryLines(report)))
    return report
  }
}

/** Said even with --quiet. */
function problemLines({problems, problemCount}: VerifyChunkedReport): string[] {
  const hidden = problemCount - problems.length
  return [
    ...problems.map(({where, reason}) => `WRONG ${printable(where)}: ${printable(reason)}`),
    ...(hidden === 0 ? [] : [`… and ${formatCount(hidden, 'further problem')}`]),
  ]
}

function summaryLines(report: VerifyChunkedReport): string[] {
  const {
    imageId,
    version = '',
    place,
    checkedChunks,
    problemCount,
    readBytes,
    undigestedChunks,
  } = report
  const what =
    imageId === undefined ? printable(place) : `${printable(imageId)} version ${printable(version)}`
  const read = readBytes === 0 ? '' : `, ${formatBytes(readBytes)} read`
  return [
    ...(undigestedChunks === 0
      ? []
      : [`The manifest has no digest for ${formatCount(undigestedChunks, 'chunk')}`]),
    `Checked ${what}: ${formatCount(checkedChunks, 'chunk')}${read}, ${formatCount(problemCount, 'problem')}`,
  ]
}
