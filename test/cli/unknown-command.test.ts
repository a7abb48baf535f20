import {Config, type Interfaces} from '@oclif/core'
import {captureOutput} from '@oclif/test'
import {expect} from 'chai'
import unknownCommand, {editDistance} from '../../src/cli/unknown-command.ts'
import {commandIds} from '../support/run-command.ts'

type Answer = {stdout: string; stderr: string; exit: number | undefined}

/** Asks the hook as oclif does: what could belong to a command's name joined by colons, then the rest. */
async function typed(id: string, ...argv: string[]): Promise<Answer> {
  const config: Partial<Interfaces.Config> = {
    bin: 'imgstore',
    commandIDs: commandIds().map((command) => command.replaceAll(' ', ':')),
    topics: [{name: 'runs'}],
  }
  let exit: number | undefined
  const host = {
    config: config as Interfaces.Config,
    exit: (code: number): never => {
      exit = code
      return undefined as never
    },
  }
  const {stdout, stderr} = await captureOutput(() => unknownCommand.call(host, {id, argv}))
  return {stdout, stderr, exit}
}

describe('a command that there is not', () => {
  it('is one message, the nearest command, and exit 2', async () => {
    const cases: [string, string, string][] = [
      ['bogus', '"bogus"', 'imgstore --help'],
      ['statsu:web', '"statsu"', 'imgstore status, or imgstore --help'],
      ['Fetch:web', '"Fetch"', 'imgstore fetch, or imgstore --help'],
      ['runs:lst', '"runs lst"', 'imgstore runs list, or imgstore runs --help'],
      ['runs:bogus', '"runs bogus"', 'imgstore runs --help'],
      ['help:bogus', '"bogus"', 'imgstore --help'],
      ['help:statsu', '"statsu"', 'imgstore status, or imgstore --help'],
      ['help:runs:bogus', '"runs bogus"', 'imgstore runs --help'],
    ]
    for (const [id, name, hint] of cases) {
      const answer = await typed(id)
      expect(answer.stderr).to.equal(`Error: there is no command ${name}\nTry: ${hint}\n`)
      expect(answer.stdout).to.equal('')
      expect(answer.exit).to.equal(2)
    }
  })

  it('may be a flag before the command', async () => {
    const {stderr} = await typed('-q', 'status')
    expect(stderr).to.equal(
      'Error: flags come after the command, and "-q" is before it\nTry: imgstore --help\n',
    )
  })

  it('is told in JSON to who asks for it, before or behind, but not behind --', async () => {
    for (const words of [
      ['bogus', '--json'],
      ['--json', 'bogus'],
    ]) {
      const [id = '', ...argv] = words
      const {stdout, stderr} = await typed(id, ...argv)
      const {error} = JSON.parse(stdout) as {error: Record<string, unknown>}
      expect(error).to.include({code: 'wrong_usage', hint: 'imgstore --help'})
      expect(stderr).to.equal('')
    }
    expect((await typed('bogus', '--', '--json')).stdout).to.equal('')
  })

  it('cannot speak to the terminal', async () => {
    const {stderr} = await typed('\u001b[31m\u202e')
    expect(stderr).to.contain('"\\u001b[31m\\u202e"')
  })

  it('is what package.json has oclif call', async () => {
    const {pjson} = await Config.load({root: process.cwd()})
    expect(pjson.oclif.hooks).to.deep.equal({
      command_not_found: './dist/src/cli/unknown-command.js',
    })
  })
})

describe('the distance of two words', () => {
  it('counts letters put in, taken out, changed and swapped', () => {
    expect(editDistance('list', 'list')).to.equal(0)
    expect(editDistance('lst', 'list')).to.equal(1)
    expect(editDistance('liist', 'list')).to.equal(1)
    expect(editDistance('lisp', 'list')).to.equal(1)
    expect(editDistance('lits', 'list')).to.equal(1)
    expect(editDistance('', 'list')).to.equal(4)
    expect(editDistance('remove', 'retry')).to.equal(4)
    expect(editDistance('x'.repeat(1e6), 'list')).to.equal(1e6)
  })
})
