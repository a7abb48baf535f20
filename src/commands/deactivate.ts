import {nameArg} from '../cli/flags.ts'
import {SettlingCommand, type SettleResult} from '../cli/settling-command.ts'

export default class Deactivate extends SettlingCommand {
  static override summary = 'Unmount an image and keep what was written to it.'
  static override description = `The image becomes STORED; \`activate\` mounts it again as it was.

Exit codes: 0 done, 10 no such image, 11 the mount is in use.`
  static override usage = 'deactivate <name> [flags]'
  static override examples = [
    {description: 'Unmount an image.', command: '<%= config.bin %> deactivate debian'},
  ]

  static override args = {name: nameArg}
  static override flags = {...SettlingCommand.waitFlags}

  async run(): Promise<SettleResult> {
    const {args, flags} = await this.parse(Deactivate)
    return this.withStore(flags, 'write', async (store) => {
      const status = await store.images.deactivate(args.name)
      if (!flags.wait && !flags.quiet) this.print(`Enqueued deactivation of image ${status.name}`)
      return this.settle(store, status, flags, 'enqueued')
    })
  }
}
