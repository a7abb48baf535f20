import {Flags} from '@oclif/core'
import {BaseCommand} from '../cli/base-command.ts'
import {hereFlags, settingFlags, unpackKeys} from '../cli/flags.ts'

export default class Worker extends BaseCommand {
  static override summary = 'Work on images until stopped.'
  static override description = `Claims what is to be done in the store and does it, several images at once; any number of workers may run on one store. SIGTERM and SIGINT end it within ten seconds: a step at work is finished or given back. SIGHUP reads the settings again.`
  static override usage = 'worker [flags]'
  static override examples = [
    {description: 'Run a worker.', command: '<%= config.bin %> worker'},
    {
      description: 'Do what is there to do, then end.',
      command: '<%= config.bin %> worker --once',
    },
    {
      description: 'Answer /healthz, /readyz and /metrics.',
      command: '<%= config.bin %> worker --listen 127.0.0.1:9310 --concurrency 4',
    },
  ]

  static override flags = {
    once: Flags.boolean({
      default: false,
      description:
        'End when nothing is left to do, neither here nor by another worker of this host.',
    }),
    ...settingFlags(['concurrency', 'listen', 'logFormat']),
    ...hereFlags,
    ...settingFlags(unpackKeys, 'UNPACKING'),
  }

  async run(): Promise<void> {
    const {flags} = await this.parse(Worker)
    const {runWorker} = await import('../daemon/worker.ts')
    this.exitStatus = await runWorker({
      ...this.configure(flags),
      configure: () => this.configure(flags),
      once: flags.once,
      isTerminal: process.stderr.isTTY,
    })
  }
}
