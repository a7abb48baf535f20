import {Args, Flags} from '@oclif/core'
import {headline} from '../cli/describe.ts'
import {hereFlags, timeoutFlag, unpackFlags, unpackWishes} from '../cli/flags.ts'
import {imageKinds, type ImageKind} from '../core/image.ts'
import {SettlingCommand, type SettleResult} from '../cli/settling-command.ts'
import type {Store} from '../core/store.ts'

export default class Fetch extends SettlingCommand {
  static override summary =
    'Fetch an image: download, verify, unpack and mount it, or serve it as a disk.'
  static override description = `Registers the image and leaves the work to a worker; with --wait, follows it to its end and does the work here when no worker runs.

The same name with the same address and checksum is no error: the state of the image is reported. An image stays STORED where the host cannot mount; --wait then exits 15.

With --kind disk the source is a disk image: raw (as it is or in gzip, zstd, xz, bzip2), or qcow2 or VHD where qemu-img is installed. It is made raw, once, and the server shows it while it is ACTIVE.

Unpacking flags are kept with the image. Work flags hold for what this command does itself; a worker goes by its own settings.

Exit codes: 0 done, 2 wrong usage, 11 name taken, 12 wrong checksum, 13 source or network, 14 no space, 15 the host cannot mount, 16 unsafe archive, 18 --timeout over, 130 interrupted.`
  static override usage = 'fetch <name> <url> <checksum> [flags]'
  static override examples = [
    {
      description: 'Enqueue an image for the worker.',
      command:
        '<%= config.bin %> fetch debian https://example.com/debian.tar 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae',
    },
    {
      description: 'Fetch the root filesystem of an operating system and wait until it is mounted.',
      command:
        '<%= config.bin %> fetch debian s3://images/debian.tar.zst sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae --profile image --wait --timeout 10m',
    },
    {
      description: 'Fetch a disk image to be served.',
      command:
        '<%= config.bin %> fetch --kind disk win7 https://example.com/win7.qcow2 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae --wait',
    },
  ]

  static override args = {
    name: Args.string({
      description: 'Name for the image: letters, digits, dots, dashes, underscores.',
      required: true,
      ignoreStdin: true,
    }),
    url: Args.string({
      description:
        'Where it comes from: http(s)://…, s3://bucket/key, or file:///path with --allow-file.',
      required: true,
      ignoreStdin: true,
    }),
    checksum: Args.string({
      description: 'SHA-256 of the archive, as sha256sum prints it.',
      required: true,
      ignoreStdin: true,
    }),
  }

  static override flags = {
    wait: Flags.boolean({
      char: 'w',
      default: false,
      description: 'Follow the image until it is there or has failed.',
    }),
    ...timeoutFlag,
    kind: Flags.string({
      description: 'What the source holds: the archive of a root filesystem, or a disk.',
      options: [...imageKinds],
      default: 'rootfs',
    }),
    activate: Flags.boolean({
      default: true,
      allowNo: true,
      description:
        'Mount the image, or show the disk, when it is there (the default); with --no-activate it ends STORED.',
    }),
    replace: Flags.boolean({
      default: false,
      description: 'If the name is taken by another source, remove that image first.',
    }),
    verify: Flags.boolean({
      default: false,
      description: 'If the archive is in the store already, read it again and check its digest.',
    }),
    ...unpackFlags,
    ...hereFlags,
  }

  async run(): Promise<SettleResult> {
    const {args, flags} = await this.parse(Fetch)
    const {settings, origins} = this.configure(flags)
    return this.withStore(flags, 'write', async (store) => {
      const {status, outcome} = await store.images.fetch({
        name: args.name,
        url: args.url,
        digest: args.checksum,
        kind: flags.kind as ImageKind,
        goal: flags.activate ? 'ACTIVE' : 'STORED',
        replace: flags.replace,
        verify: flags.verify,
        ...(flags.replace ? {signal: this.signal} : {}),
        ...unpackWishes(settings, origins, (origin) => origin !== 'default'),
      })
      if (outcome !== 'unchanged') {
        if (!flags.quiet) this.print(`Enqueued image ${status.name}`)
      } else if (!flags.wait && !flags.quiet) this.print(headline(status))
      if (!flags.wait && outcome !== 'unchanged')
        await this.tellHowToGoOn(store, status.name, flags.quiet)
      return this.settle(store, status, flags, outcome)
    })
  }
  /** For a person at a terminal: nothing happens by itself when no worker runs. */
  private async tellHowToGoOn(store: Store, name: string, isQuiet: boolean): Promise<void> {
    if (isQuiet) return
    const {bin} = this.config
    if (await store.hasWorker()) this.remark(`To follow it: ${bin} status ${name} --watch`)
    else
      this.remark(
        `No worker runs on this store. Start one: ${bin} worker`,
        `Or do the work here and wait: repeat the command with --wait`,
      )
  }
}
