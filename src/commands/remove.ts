import {nameArg} from '../cli/flags.ts'
import {SettlingCommand, type SettleResult} from '../cli/settling-command.ts'

export default class Remove extends SettlingCommand {
  static override hiddenAliases = ['rm']
  static override summary = 'Remove an image and everything written to it.'
  static override description = `Unmounts it and removes its tree, its writable layer and its record. It does not ask. The downloaded archive goes too, unless another image shares it.

Exit codes: 0 done, 10 no such image, 11 the mount is in use.`
  static override usage = 'remove <name> [flags]'
  static override examples = [
    {description: 'Remove an image.', command: '<%= config.bin %> remove debian'},
  ]

  static override args = {name: nameArg}
  static override flags = {...SettlingCommand.waitFlags}

  async run(): Promise<SettleResult> {
    const {args, flags} = await this.parse(Remove)
    return this.withStore(flags, 'write', async (store) => {
      const status = await store.images.remove(args.name)
      if (!flags.wait && !flags.quiet) this.print(`Enqueued removal of image ${status.name}`)
      return this.settle(store, status, flags, 'enqueued')
    })
  }
}
