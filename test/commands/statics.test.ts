/** What every command promises about itself: help, examples that work, arguments that read no standard input. */
import {Flags, type Command} from '@oclif/core'
import {expect} from 'chai'
import {commandIds, loadCommand, runCommand} from '../support/run-command.ts'

const ids = commandIds()

type Example = {command: string; description: string}

function examplesOf(command: Command.Class): Example[] {
  return command.examples.map((example) => {
    if (typeof example === 'string') throw new Error('examples are objects here')
    return {command: example.command, description: example.description}
  })
}

function flagsOf(command: Command.Class): Map<string, {takesValue: boolean}> {
  const flags = new Map([['--json', {takesValue: false}]])
  const all = {...command.baseFlags, ...command.flags} as Record<string, Command.Flag.Any>
  for (const [name, flag] of Object.entries(all)) {
    const kind = {takesValue: flag.type === 'option'}
    flags.set(`--${name}`, kind)
    if (flag.char !== undefined) flags.set(`-${flag.char}`, kind)
    if (flag.type === 'boolean' && flag.allowNo) flags.set(`--no-${name}`, kind)
  }
  return flags
}

describe('the commands', () => {
  it('are those that are promised', () => {
    expect(ids).to.deep.equal([
      'activate',
      'backup',
      'cleanup',
      'completion',
      'convert',
      'deactivate',
      'disk list',
      'disk publish',
      'disk verify',
      'doctor',
      'events',
      'fetch',
      'list',
      'remove',
      'restore',
      'retry',
      'run',
      'runs list',
      'runs show',
      'serve',
      'status',
      'verify',
      'worker',
    ])
  })

  for (const id of ids) {
    describe(id, () => {
      it('has a summary, a description, a usage line and JSON', async () => {
        const command = await loadCommand(id)
        expect(command.summary).to.match(/^[A-Z].*[^.]\.$/)
        expect(command.description).to.match(/\.$/)
        expect(command.usage).to.match(new RegExp(`^${id}( |$)`))
        expect(command.enableJsonFlag).to.equal(true)
      })

      it('has examples made of flags and arguments that exist', async () => {
        const command = await loadCommand(id)
        const examples = examplesOf(command)
        expect(examples).to.not.have.length(0)
        for (const example of examples) {
          expect(example.description).to.match(/\.$/)
          checkExample(id, command, example)
        }
      })

      it('takes no argument from standard input, and says what each is', async () => {
        const command = await loadCommand(id)
        for (const arg of Object.values(command.args)) {
          expect(arg.ignoreStdin).to.equal(true)
          expect(arg.description).to.match(/\.$/)
        }
        const {flags} = command as {flags?: Command.Class['flags']}
        for (const flag of Object.values(flags ?? {})) expect(flag.description).to.match(/[.)]$/)
      })

      it('refuses a flag that it does not have, with exit 2, in words and in JSON', async () => {
        const said = await runCommand(...id.split(' '), '--no-such-flag')
        expect(said.exit).to.equal(2)
        expect(said.stdout).to.equal('')
        expect(said.stderr).to.match(/^Error: .+\nUsage: imgstore .+\nTry: imgstore .+ --help\n$/)
        const json = await runCommand(...id.split(' '), '--no-such-flag', '--json')
        expect(json.exit).to.equal(2)
        expect(json.stderr).to.equal('')
        const {error} = JSON.parse(json.stdout) as {error: {code: string}}
        expect(error.code).to.equal('wrong_usage')
      })
    })
  }
})

/** Parses the words of an example as a shell and then the command would. */
function checkExample(id: string, command: Command.Class, example: Example): void {
  const words = example.command
    .replaceAll('<%= config.bin %>', 'imgstore')
    .replace(/^source <\((.*)\)$/, '$1')
    .replace(/ > \S+$/, '')
    .split(' ')
  const start = ['imgstore', ...id.split(' ')]
  expect(words.slice(0, start.length), example.command).to.deep.equal(start)
  const flags = flagsOf(command)
  const args: string[] = []
  const rest = words.slice(start.length)
  for (let i = 0; i < rest.length; i++) {
    const word = rest[i] ?? ''
    if (word === '--') break
    if (!word.startsWith('-')) {
      args.push(word)
      continue
    }
    const flag = flags.get(word)
    if (!flag) throw new Error(`${word} in \`${example.command}\` does not exist`)
    if (flag.takesValue) i++
  }
  const known = Object.values(command.args)
  expect(args.length, example.command).to.be.at.most(known.length)
  expect(args.length, example.command).to.be.at.least(known.filter((a) => a.required).length)
}

describe('the example checker of these tests', () => {
  const command = {
    args: {},
    baseFlags: {},
    flags: {follow: Flags.boolean()},
  } as unknown as Command.Class
  const example = (text: string): Example => ({command: text, description: 'x.'})

  it('finds flags and arguments that do not exist', () => {
    checkExample('events', command, example('imgstore events --follow'))
    expect(() => checkExample('events', command, example('imgstore events --nope'))).to.throw(
      'does not exist',
    )
    expect(() => checkExample('events', command, example('imgstore events debian'))).to.throw()
  })
})
