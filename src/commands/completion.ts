import {Args} from '@oclif/core'
import {BaseCommand} from '../cli/base-command.ts'
import {modelOf, shells, type CommandModel, type Shell} from '../cli/completion/model.ts'

export default class Completion extends BaseCommand {
  static override summary = 'Print a completion script for a shell.'
  static override description =
    'It completes commands, flags, their choices, files, and the names of images that are in the store.'
  static override usage = 'completion <bash|zsh|fish>'
  static override examples = [
    {
      description: 'For bash; put the line into ~/.bashrc to keep it.',
      command: 'source <(<%= config.bin %> completion bash)',
    },
    {
      description: 'For zsh, in ~/.zshrc after compinit.',
      command: 'source <(<%= config.bin %> completion zsh)',
    },
    {
      description: 'For fish.',
      command:
        '<%= config.bin %> completion fish > ~/.config/fish/completions/<%= config.bin %>.fish',
    },
  ]

  static override args = {
    shell: Args.string({
      description: 'The shell.',
      required: true,
      ignoreStdin: true,
      options: [...shells],
    }),
  }

  async run(): Promise<{shell: string; script: string}> {
    const {args} = await this.parse(Completion)
    const script = await scriptOf(
      args.shell as Shell,
      this.config.bin,
      modelOf(this.config.commands),
    )
    if (!this.jsonEnabled()) process.stdout.write(script)
    return {shell: args.shell, script}
  }
}

async function scriptOf(shell: Shell, bin: string, models: CommandModel[]): Promise<string> {
  switch (shell) {
    case 'bash':
      return (await import('../cli/completion/bash.ts')).bashScript(bin, models)
    case 'zsh':
      return (await import('../cli/completion/zsh.ts')).zshScript(bin, models)
    case 'fish':
      return (await import('../cli/completion/fish.ts')).fishScript(bin, models)
  }
}
