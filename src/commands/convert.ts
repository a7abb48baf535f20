import {Flags} from '@oclif/core'
import {nameArg} from '../cli/flags.ts'
import {SettlingCommand, type SettleResult} from '../cli/settling-command.ts'
import type {TreeBackend} from '../core/image.ts'

export default class Convert extends SettlingCommand {
  static override summary = 'Change the backend of an image, without a download.'
  static override description = `With dir the archive is extracted into a directory; with erofs a small index is mounted and the files stay in the archive. What was written to the image is kept. An ACTIVE image is unmounted meanwhile.

Exit codes: 0 done, 10 no such image, 11 the mount is in use, 12 the archive is gone, 15 the host cannot mount it.`
  static override usage = 'convert <name> --backend dir|erofs [flags]'
  static override examples = [
    {
      description: 'Extract an image that was indexed.',
      command: '<%= config.bin %> convert debian --backend dir',
    },
  ]

  static override args = {name: nameArg}
  static override flags = {
    backend: Flags.option({
      options: ['dir', 'erofs'] as const,
      required: true,
      description: 'How the image is made usable from now on.',
    })(),
    ...SettlingCommand.waitFlags,
  }

  async run(): Promise<SettleResult> {
    const {args, flags} = await this.parse(Convert)
    const backend: TreeBackend = flags.backend
    return this.withStore(flags, 'write', async (store) => {
      const {signal} = this
      const {status, wasChanged} = await store.images.convert(args.name, {backend, signal})
      if (!wasChanged) {
        if (!flags.quiet) this.print(`Image ${status.name} has the backend ${backend} already`)
        return {...status, outcome: 'unchanged'}
      }
      if (!flags.wait && !flags.quiet) this.print(`Enqueued conversion of image ${status.name}`)
      return this.settle(store, status, flags, 'enqueued')
    })
  }
}
