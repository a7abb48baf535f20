import {BaseCommand} from '../cli/base-command.ts'
import {imageTable} from '../cli/describe.ts'
import {fit, printable} from '../cli/print.ts'
import type {ImageStatus} from '../core/image.ts'

export default class List extends BaseCommand {
  static override summary = 'List the images of the store.'
  static override description =
    'With --quiet, only their names. A store that does not exist yet is empty.'
  static override usage = 'list [flags]'
  static override examples = [
    {description: 'List the images.', command: '<%= config.bin %> list'},
    {description: 'Only their names, for a script.', command: '<%= config.bin %> list --quiet'},
  ]

  async run(): Promise<{images: ImageStatus[]}> {
    const {flags} = await this.parse(List)
    return this.withStore(flags, 'read', async (store) => {
      const images = await store.images.list()
      if (flags.quiet) this.print(...images.map((image) => printable(image.name)))
      else this.print(...fit(imageTable(images, Date.now()), process.stdout.columns))
      return {images}
    })
  }
}
