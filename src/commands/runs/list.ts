import {Flags} from '@oclif/core'
import {BaseCommand} from '../../cli/base-command.ts'
import {runTable} from '../../cli/describe.ts'
import {count, optionalNameArg} from '../../cli/flags.ts'
import type {RunSummary} from '../../core/image.ts'

export default class RunsList extends BaseCommand {
  static override summary = 'List the runs of the state machine, the newest first.'
  static override description =
    'A run is one effort to bring an image to its goal: a fetch, an activation, a removal. With --quiet, only their ids.'
  static override usage = 'runs list [name] [flags]'
  static override examples = [
    {description: 'The last runs.', command: '<%= config.bin %> runs list'},
    {
      description: 'Unfinished runs of one image.',
      command: '<%= config.bin %> runs list debian --open',
    },
  ]

  static override args = {name: optionalNameArg}
  static override flags = {
    open: Flags.boolean({default: false, description: 'Only those that are not finished.'}),
    limit: Flags.string({
      default: '50',
      description: 'Show at most so many.',
      helpValue: '<number>',
    }),
  }

  async run(): Promise<{runs: RunSummary[]}> {
    const {args, flags} = await this.parse(RunsList)
    const limit = count('limit', flags.limit, 100_000)
    return this.withStore(flags, 'read', async (store) => {
      const runs = await store.runs.list({
        limit,
        ...(args.name === undefined ? {} : {image: args.name}),
        ...(flags.open ? {isOpen: true} : {}),
      })
      this.print(...(flags.quiet ? runs.map((run) => run.id) : runTable(runs, Date.now())))
      return {runs}
    })
  }
}
