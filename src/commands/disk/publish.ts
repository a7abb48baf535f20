import {Args, Flags} from '@oclif/core'
import {BaseCommand} from '../../cli/base-command.ts'
import {count, networkFlags, settingFlags} from '../../cli/flags.ts'
import {formatBytes, formatCount, printable} from '../../cli/print.ts'
import {openDiskView} from '../../cli/disk-view.ts'
import {MiB} from '../../core/limits.ts'
import type {PublishReport} from '../../core/store.ts'

export default class DiskPublish extends BaseCommand {
  static override summary = 'Write the chunked form of a raw disk image.'
  static override description = `Chunks and a manifest with their digests go to chunked/<id>/<version> under the images root, where \`imgstore serve\` finds them, or to a bucket with --to. Holes are not read. Nothing is visible before all of it is there; when interrupted, the same command goes on. What is published already is checked, and mended where it is damaged.

Exit codes: 0 done, 2 not a disk image that can be published, 10 no such file, 11 another disk is there, or the file changed while it was read, 13 the bucket or the network failed, 14 no space, 130 interrupted.`
  static override usage = 'disk publish <name|file> [flags]'
  static override examples = [
    {
      description: 'Publish an image under a version made of its content.',
      command: '<%= config.bin %> disk publish ./debian.img --id debian --version sha256',
    },
    {
      description: 'The same into a bucket, and point latest.json to it.',
      command:
        '<%= config.bin %> disk publish ./debian.img --to s3://bucket/images --version r3 --publish-latest',
    },
  ]

  static override args = {
    disk: Args.string({
      description:
        'A file with a raw disk image (with a slash in it, or existing), or the name of one in the store.',
      required: true,
      ignoreStdin: true,
    }),
  }
  static override flags = {
    ...settingFlags(['imagesRoot', 'chunkSizeBytes']),
    to: Flags.string({
      description:
        'Write to a bucket instead: s3://bucket/prefix; <id>/<version> is put behind it.',
      helpValue: '<url>',
      exclusive: ['images-root'],
    }),
    id: Flags.string({
      description: "Id of the image; without it, the file's name.",
      helpValue: '<id>',
    }),
    version: Flags.string({
      description:
        'Version, or sha256 to make it of the digest of the whole image; without it, the layout is flat and has none.',
      helpValue: '<version>',
    }),
    force: Flags.boolean({
      default: false,
      description: 'Replace another disk that is published there.',
    }),
    'publish-latest': Flags.boolean({
      default: false,
      description: "Point the image's latest.json to this version.",
    }),
    meta: Flags.boolean({
      default: true,
      allowNo: true,
      description: 'Write meta.json (when and from what it was made) beside the manifest.',
    }),
    concurrency: Flags.string({
      description: 'Chunks worked on at once (from 1 to 64).',
      helpValue: '<number>',
    }),
    ...networkFlags,
  }

  async run(): Promise<PublishReport> {
    const {args, flags} = await this.parse(DiskPublish)
    const {settings} = this.configure(flags)
    const {signal} = this
    const {openDisks} = await import('../../core/store.ts')
    const disks = await openDisks(settings)
    const view = await openDiskView('publish', {isJson: this.jsonEnabled(), isQuiet: flags.quiet})
    let report: PublishReport
    try {
      report = await disks.publish({
        disk: args.disk,
        imagesRoot: settings.imagesRoot,
        chunkSize: settings.chunkSizeBytes,
        isForced: flags.force,
        hasMeta: flags.meta,
        isLatest: flags['publish-latest'],
        signal,
        onProgress: view.onProgress,
        ...(flags.to === undefined ? {} : {to: flags.to}),
        ...(flags.id === undefined ? {} : {id: flags.id}),
        ...(flags.version === undefined ? {} : {version: flags.version}),
        ...(flags.concurrency === undefined
          ? {}
          : {concurrency: count('concurrency', flags.concurrency, 64)}),
      })
    } finally {
      view.close()
    }
    if (!flags.quiet) this.print(...reportLines(report))
    // The limit of the specification's section 5; a server may be told another.
    if (report.chunkSize > 8 * MiB)
      this.remark('Servers refuse chunks above 8 MiB unless --max-chunk-bytes is raised.')
    return report
  }
}

const outcomes: Record<PublishReport['outcome'], string> = {
  published: 'Published',
  replaced: 'Replaced',
  mended: 'Mended',
  unchanged: 'Checked, nothing to do:',
}

function reportLines(report: PublishReport): string[] {
  const {chunkCount, zeroChunks, writtenChunks} = report
  const zeros = zeroChunks === 0 ? '' : `, ${zeroChunks} of zeros`
  return [
    `${outcomes[report.outcome]} ${report.id} version ${report.version} at ${printable(report.place)}`,
    `  ${formatBytes(report.totalSize)} in ${formatCount(chunkCount, 'chunk')} of ${formatBytes(report.chunkSize)}${zeros}; ${formatCount(writtenChunks, 'chunk')} written, ${formatBytes(report.readBytes)} read`,
  ]
}
