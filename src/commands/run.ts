import {Flags} from '@oclif/core'
import {BaseCommand} from '../cli/base-command.ts'
import {nameArg} from '../cli/flags.ts'
import {fail} from '../core/errors.ts'

export default class Run extends BaseCommand {
  static override summary = 'Run a program in an active image.'
  static override description = `The program sees the image as its root, in mount and process namespaces of its own, and this terminal. What it writes stays in the image's writable layer. Exits as the program does.

With --json, the last line of the output is the result.`
  static override usage = 'run <name> [flags] -- <program> [argument…]'
  static override examples = [
    {description: 'Open a shell.', command: '<%= config.bin %> run debian -- /bin/sh'},
    {
      description: 'Run one program without a network.',
      command: '<%= config.bin %> run debian --network none --env LANG=C -- /usr/bin/id -u',
    },
  ]

  static override strict = false
  static override args = {name: nameArg}
  static override flags = {
    cwd: Flags.string({
      description: 'Directory in the image to start in.',
      helpValue: '<directory>',
    }),
    env: Flags.string({
      char: 'e',
      description: 'Set a variable for the program; may be given more than once.',
      helpValue: '<NAME=value>',
      multiple: true,
      multipleNonGreedy: true,
    }),
    network: Flags.string({
      description: "The host's network, or none.",
      options: ['host', 'none'],
    }),
    driver: Flags.string({
      description: 'What confines the program; auto takes runc when it is installed.',
      options: ['auto', 'runc', 'unshare'],
    }),
  }

  async run(): Promise<{name: string; exitCode: number}> {
    const {args, flags, raw} = await this.parse(Run)
    // Not `argv`: oclif sorts that, and puts a word that occurs twice in the wrong place.
    const [, ...command] = raw.filter((token) => token.type === 'arg').map((token) => token.input)
    if (command.length === 0) throw fail('wrong_usage', {reason: 'say what to run, after "--"'})
    // A terminal sends Ctrl-C to the program as well; it alone decides what that means.
    this.leavesInterruptAlone = process.stdin.isTTY
    return this.withStore(flags, 'write', async (store) => {
      const {exitCode} = await store.images.run(args.name, command, {
        env: variables(flags.env ?? []),
        signal: this.signal,
        ...(flags.cwd === undefined ? {} : {cwd: flags.cwd}),
        ...(flags.network === undefined ? {} : {network: flags.network as 'host' | 'none'}),
        ...(flags.driver === undefined
          ? {}
          : {driver: flags.driver as 'auto' | 'runc' | 'unshare'}),
      })
      this.exitStatus = exitCode
      return {name: args.name, exitCode}
    })
  }
}

function variables(given: readonly string[]): Record<string, string> {
  const pairs = given.map((text) => {
    const at = text.indexOf('=')
    if (at < 1)
      throw fail('wrong_usage', {reason: `--env ${JSON.stringify(text)} is not NAME=value`})
    return [text.slice(0, at), text.slice(at + 1)] as const
  })
  return Object.fromEntries(pairs)
}
