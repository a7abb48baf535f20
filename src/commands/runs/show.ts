import {Args} from '@oclif/core'
import {BaseCommand} from '../../cli/base-command.ts'
import {eventLine, runLines} from '../../cli/describe.ts'
import type {RunEvent, RunSummary} from '../../core/image.ts'

export default class RunsShow extends BaseCommand {
  static override summary = 'Show one run and everything it did.'
  static override description = 'With --quiet, only its status.'
  static override usage = 'runs show <id> [flags]'
  static override examples = [
    {
      description: 'Show a run.',
      command: '<%= config.bin %> runs show 01KAB3DEFGH4JKMNPQRSTVWXYZ',
    },
    {
      description: 'The beginning of an id is enough when it is the only one.',
      command: '<%= config.bin %> runs show 01KAB3',
    },
  ]

  static override args = {
    id: Args.string({
      description: 'Id of the run, or the beginning of it.',
      required: true,
      ignoreStdin: true,
    }),
  }

  async run(): Promise<{run: RunSummary; events: RunEvent[]}> {
    const {args, flags} = await this.parse(RunsShow)
    return this.withStore(flags, 'read', async (store) => {
      const {run, events} = await store.runs.show(args.id)
      if (flags.quiet) this.print(run.status)
      else this.print(...runLines(run, Date.now()), '', ...events.map((event) => eventLine(event)))
      return {run, events}
    })
  }
}
