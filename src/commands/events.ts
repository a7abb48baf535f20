import {Flags} from '@oclif/core'
import {BaseCommand} from '../cli/base-command.ts'
import {eventLine} from '../cli/describe.ts'
import {count, optionalNameArg} from '../cli/flags.ts'
import {toJson} from '../cli/print.ts'
import type {RunEvent} from '../core/image.ts'
import {plainJson} from '../core/log.ts'
import type {Store} from '../core/store.ts'

export default class Events extends BaseCommand {
  static override summary = 'Show what happened to images, the oldest first.'
  static override description =
    'With --follow, shows what happens from now on, too, until it is interrupted; with --json, each event is then a line of its own.'
  static override usage = 'events [name] [flags]'
  static override examples = [
    {description: 'The last events.', command: '<%= config.bin %> events --limit 20'},
    {
      description: 'Follow one image.',
      command: '<%= config.bin %> events debian --follow',
    },
  ]

  static override args = {name: optionalNameArg}
  static override flags = {
    follow: Flags.boolean({
      char: 'f',
      default: false,
      description: 'Go on with what happens from now on.',
    }),
    limit: Flags.string({
      char: 'n',
      default: '100',
      description: 'Begin with so many past events.',
      helpValue: '<number>',
    }),
  }

  async run(): Promise<{events: RunEvent[]} | undefined> {
    const {args, flags} = await this.parse(Events)
    const limit = count('limit', flags.limit, 1_000_000)
    const filter = args.name === undefined ? {} : {image: args.name}
    return this.withStore(flags, 'read', async (store) => {
      this.isFollowing = flags.follow
      const events = await store.runs.events({...filter, limit})
      if (!flags.follow) {
        this.print(...events.map((event) => eventLine(event)))
        return {events}
      }
      for (const event of events) this.emit(event)
      await this.followFrom(store, filter, events.at(-1)?.seq ?? 0)
      return undefined
    })
  }

  private async followFrom(
    store: Store,
    filter: {image?: string},
    afterSeq: number,
  ): Promise<void> {
    const {signal} = this
    for await (const event of store.runs.follow({...filter, afterSeq, signal})) this.emit(event)
    this.exitStatus = this.stoppedStatus
  }

  private emit(event: RunEvent): void {
    if (this.jsonEnabled())
      process.stdout.write(`${plainJson(JSON.stringify(toJson({kind: 'event', event})))}\n`)
    else this.print(eventLine(event))
  }
}
