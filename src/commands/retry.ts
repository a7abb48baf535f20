import {Flags} from '@oclif/core'
import {hereFlags, isFromFlag, nameArg, unpackFlags, unpackWishes} from '../cli/flags.ts'
import {SettlingCommand, type SettleResult} from '../cli/settling-command.ts'

export default class Retry extends SettlingCommand {
  static override summary = 'Try a failed image again.'
  static override description = `Goes on from what is there already: an archive that was downloaded and verified is not downloaded again. Limits and profile stay as they were unless given here. An image that waits for its next try is tried now; one that is held back because the host could not mount is mounted now if it can.`
  static override usage = 'retry <name> [flags]'
  static override examples = [
    {description: 'Try again.', command: '<%= config.bin %> retry debian'},
    {
      description: 'Unpack it as a root filesystem, after the strict profile refused it.',
      command: '<%= config.bin %> retry debian --profile image',
    },
    {
      description: 'Allow larger files than the profile does.',
      command: '<%= config.bin %> retry debian --max-file-size 2GiB',
    },
  ]

  static override args = {name: nameArg}
  static override flags = {
    ...SettlingCommand.waitFlags,
    activate: Flags.boolean({
      allowNo: true,
      description:
        'Whether to mount the image when it is there; without it, as the image was fetched.',
    }),
    ...unpackFlags,
    ...hereFlags,
  }

  async run(): Promise<SettleResult> {
    const {args, flags} = await this.parse(Retry)
    const {settings, origins} = this.configure(flags)
    // oclif leaves an absent boolean out, whatever its type says.
    const isActivated = flags.activate as boolean | undefined
    return this.withStore(flags, 'write', async (store) => {
      const status = await store.images.retry(args.name, {
        ...unpackWishes(settings, origins, isFromFlag),
        ...(isActivated === undefined ? {} : {goal: isActivated ? 'ACTIVE' : 'STORED'}),
      })
      if (!flags.wait && !flags.quiet) this.print(`Enqueued retry of image ${status.name}`)
      return this.settle(store, status, flags, 'enqueued')
    })
  }
}
