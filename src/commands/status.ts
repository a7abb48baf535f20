import {Flags} from '@oclif/core'
import {headline, imageTable, statusLines} from '../cli/describe.ts'
import {optionalNameArg} from '../cli/flags.ts'
import {fit, printable} from '../cli/print.ts'
import {SettlingCommand} from '../cli/settling-command.ts'
import {fail} from '../core/errors.ts'
import type {ImageStatus} from '../core/image.ts'
import type {Store} from '../core/store.ts'

type StoreUsed = {path: string; origin: string; database: string}
type Result = (ImageStatus | {images: ImageStatus[]}) & {store: StoreUsed}

export default class Status extends SettlingCommand {
  static override summary = 'Show the state of an image, or of all.'
  static override description = `Exits 0 whatever the state is: a FAILED image is reported with its error, what to do about it, and the state it came from. With --quiet only the state is printed.

The last line says which store was taken, and why.`
  static override usage = 'status [name] [flags]'
  static override examples = [
    {description: 'Show one image.', command: '<%= config.bin %> status debian'},
    {
      description: 'Follow it until it is active or has failed.',
      command: '<%= config.bin %> status debian --watch',
    },
    {description: 'Show all images.', command: '<%= config.bin %> status'},
  ]

  static override args = {name: optionalNameArg}

  static override flags = {
    watch: Flags.boolean({
      char: 'w',
      default: false,
      description: 'Follow the image until it settles; changes nothing.',
    }),
  }

  async run(): Promise<Result> {
    const {args, flags} = await this.parse(Status)
    const {name} = args
    if (flags.watch && name === undefined)
      throw fail('wrong_usage', {reason: '--watch needs the name of an image'})
    return this.withStore(flags, 'read', async (store) => {
      const used = storeUsed(store)
      const result =
        name === undefined ? await this.all(store, flags) : await this.one(store, name, flags)
      if (!flags.quiet) this.print('', `Store: ${printable(used.path)} (${printable(used.origin)})`)
      return {...result, store: used}
    })
  }

  private async all(store: Store, flags: {quiet: boolean}): Promise<{images: ImageStatus[]}> {
    const images = await store.images.list()
    if (flags.quiet) this.print(...images.map((image) => `${image.name} ${image.state}`))
    else this.print(...fit(imageTable(images, Date.now()), process.stdout.columns))
    return {images}
  }

  private async one(
    store: Store,
    name: string,
    flags: {quiet: boolean; watch: boolean},
  ): Promise<ImageStatus> {
    let status = await store.images.status(name)
    if (flags.watch) {
      const {signal} = this
      if (!flags.quiet) this.print(headline(status))
      const before = status
      status = await this.follow(flags.quiet, before, async (onEvent) => {
        const after = await store.images.watch(name, {onEvent, signal})
        if (after === undefined && !signal.aborted) throw fail('image_not_found', {name})
        return after ?? before
      })
      this.exitStatus = this.stoppedStatus
    }
    this.print(...(flags.quiet ? [status.state] : statusLines(status, Date.now())))
    return status
  }
}

function storeUsed(store: Store): StoreUsed {
  const {settings, origins} = store
  return {path: settings.store, origin: origins.store, database: settings.db}
}
