import type {Interfaces} from '@oclif/core'
import {BaseCommand} from '../../cli/base-command.ts'
import {settingFlags} from '../../cli/flags.ts'
import {fit, formatBytes, printable, table} from '../../cli/print.ts'
import type {DiskList as Listed} from '../../core/store.ts'
import {silentLogger} from '../../core/log.ts'

export default class DiskList extends BaseCommand {
  static override summary = 'List the disk images of a directory as they would be served.'
  static override description = `With their sizes, ETags and the versions of their chunked form. What is left out is named with the reason. With --quiet, only their ids.

Exit codes: 0 done, 3 some entry is left out, 10 there is no such directory, 15 its catalog is invalid.`
  static override usage = 'disk list [flags]'
  static override examples = [
    {description: 'List ./images.', command: '<%= config.bin %> disk list'},
    {
      description: 'List another directory, for a script.',
      command: '<%= config.bin %> disk list --images-root /srv/images --json',
    },
  ]

  static override flags: Interfaces.FlagInput = settingFlags(['imagesRoot'])

  async run(): Promise<Listed> {
    const {flags} = await this.parse(DiskList)
    const {settings} = this.configure(flags)
    const {openDisks} = await import('../../core/store.ts')
    const disks = await openDisks(settings)
    // What the service would log is printed below.
    const listed = await disks.list({imagesRoot: settings.imagesRoot, log: silentLogger})
    if (listed.problems.length > 0) this.exitStatus = 3
    if (flags.quiet) this.print(...idsOf(listed).map(printable))
    else this.print(...fit(listLines(listed), process.stdout.columns))
    return listed
  }
}

function idsOf({images, chunkedOnly}: Listed): string[] {
  return [...images, ...chunkedOnly].map(({id}) => id)
}

function listLines({images, chunkedOnly, problems}: Listed): string[] {
  const rows = [
    ...images.map((image) => [
      printable(image.id),
      formatBytes(image.size),
      printable(image.etag),
      image.isPublic ? 'yes' : 'no',
      versionsText(image.versions),
    ]),
    ...chunkedOnly.map(({id, versions}) => [
      printable(id),
      '-',
      '-',
      'yes',
      versionsText(versions),
    ]),
  ]
  return [
    ...(rows.length === 0
      ? ['No images.']
      : table(['ID', 'SIZE', 'ETAG', 'PUBLIC', 'CHUNKED'], rows, ['SIZE'])),
    ...problems.map(({id, reason}) => `LEFT OUT ${printable(id)}: ${printable(reason)}`),
  ]
}

function versionsText(versions: readonly string[]): string {
  if (versions.length === 0) return '-'
  return versions.map((version) => (version === '' ? '(flat)' : printable(version))).join(', ')
}
