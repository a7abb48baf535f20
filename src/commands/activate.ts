import {hereFlags, nameArg} from '../cli/flags.ts'
import {SettlingCommand, type SettleResult} from '../cli/settling-command.ts'

export default class Activate extends SettlingCommand {
  static override summary = 'Mount an image.'
  static override description = `Mounts the image's tree, with a writable layer of its own, at active/NAME in the store. What was written there before is still there.`
  static override usage = 'activate <name> [flags]'
  static override examples = [
    {description: 'Mount an image.', command: '<%= config.bin %> activate debian'},
  ]

  static override args = {name: nameArg}
  static override flags = {...SettlingCommand.waitFlags, ...hereFlags}

  async run(): Promise<SettleResult> {
    const {args, flags} = await this.parse(Activate)
    return this.withStore(flags, 'write', async (store) => {
      const status = await store.images.activate(args.name)
      if (!flags.wait && !flags.quiet) this.print(`Enqueued activation of image ${status.name}`)
      return this.settle(store, status, flags, 'enqueued')
    })
  }
}
