/** The process that `startCommand` starts: a command from its source file, ended as oclif ends one. */
import {handle} from '@oclif/core/handle'
import {findCommand, loadConfig} from './run-command.ts'

const {command, rest} = await findCommand(process.argv.slice(2))
try {
  await command.run(rest, await loadConfig())
} catch (error) {
  await handle(error as Error)
}
