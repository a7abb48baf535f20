import {captureOutput} from '@oclif/test'
import {expect} from 'chai'
import {BaseCommand} from '../../src/cli/base-command.ts'
import {BugError} from '../../src/core/assert.ts'
import {fail} from '../../src/core/errors.ts'
import {loadConfig} from '../support/run-command.ts'

/** Runs a command that does what it is told, and ends as a command ends. */
async function end(
  body: (command: {exitStatus: number; isFollowing: boolean}) => unknown,
  ...argv: string[]
): Promise<{stdout: string; stderr: string; exit: number | undefined}> {
  class Told extends BaseCommand {
    static override id = 'told'
    static override usage = 'told [flags]'
    async run(): Promise<unknown> {
      await this.parse(Told)
      return body(this as unknown as {exitStatus: number; isFollowing: boolean})
    }
  }
  const config = await loadConfig()
  const {stdout, stderr, error} = await captureOutput(async () => Told.run(argv, config))
  const exit = (error as {oclif?: {exit?: number}} | undefined)?.oclif?.exit
  return {stdout, stderr, exit: error === undefined ? 0 : exit}
}

const raise = (error: unknown) => (): never => {
  throw error
}

describe('the end of a command', () => {
  it('is a message, a hint and the code of the row for a failure that the table knows', async () => {
    const busy = fail('store_busy', {path: '/x/store.db'})
    expect(await end(raise(busy))).to.deep.equal({
      stdout: '',
      stderr: `Error: the database /x/store.db is locked by another process\nTry: ${busy.hint}\n`,
      exit: 11,
    })
  })

  it('is the same as JSON on standard output with --json', async () => {
    const {stdout, stderr, exit} = await end(
      raise(fail('source_unavailable', {url: 'http://h/', reason: 'x', retryAfterMs: 5})),
      '--json',
    )
    expect(stderr).to.equal('')
    expect(exit).to.equal(13)
    const {error} = JSON.parse(stdout) as {error: Record<string, unknown>}
    expect(Object.keys(error)).to.deep.equal(['code', 'message', 'hint', 'details'])
    expect(error['details']).to.deep.equal({url: 'http://h/', reason: 'x', retry_after_ms: 5})
  })

  it('puts the name of the image into the hint, fit to be copied', async () => {
    const {stderr} = await end(raise(fail('image_busy', {name: 'web', reason: 'x'})))
    expect(stderr).to.contain('`imgstore status web --watch`')
    const json = await end(raise(fail('image_busy', {name: 'web', reason: 'x'})), '--json')
    expect(json.stdout).to.contain('`imgstore status web --watch`')
    const hostile = await end(raise(fail('image_busy', {name: '$(rm -rf /)', reason: 'x'})))
    expect(hostile.stderr).to.contain('`imgstore status NAME --watch`')
  })

  it('shows hostile text only as escapes', async () => {
    const {stderr} = await end(raise(fail('source_not_image', {what: 'a\u001b[2Jb\nTry: c'})))
    expect(stderr).to.contain('a\\u001b[2Jb\\nTry: c')
    expect(stderr.split('\n')).to.have.length(3)
  })

  it('is exit 70, the place and a request to report it for a bug', async () => {
    for (const bug of [new BugError('this is a bug in imgstore: no way'), new Error('no way')]) {
      const {stderr, exit} = await end(raise(bug))
      expect(exit).to.equal(70)
      expect(stderr).to.match(/^Error: this is a bug in imgstore: no way\nTry: Please report it/)
      expect(stderr).to.contain('base-command.test.ts')
    }
    const {stdout} = await end(raise('not even an error'), '--json')
    expect(stdout).to.contain('"code": "internal"')
  })

  it('is no stack for anything that is not a bug', async () => {
    const cause = new Error('ECONNREFUSED')
    const failure = fail('source_unavailable', {url: 'http://h/', reason: 'x'}, {cause})
    expect((await end(raise(failure))).stderr).to.not.contain('.ts')
  })

  it('is exit 2 with the usage for a wrong command line', async () => {
    const {stderr, exit} = await end(() => undefined, 'superfluous')
    expect(exit).to.equal(2)
    expect(stderr).to.equal(
      'Error: Unexpected argument: superfluous\nUsage: imgstore told\nTry: imgstore told --help\n',
    )
  })

  it('prints a result as one document, or as the last line of those that followed', async () => {
    const result = {sizeBytes: 1, createdAt: 0}
    const json = {size_bytes: 1, created_at: '1970-01-01T00:00:00.000Z'}
    const one = await end(() => result, '--json')
    expect(one).to.deep.equal({stdout: `${JSON.stringify(json, null, 2)}\n`, stderr: '', exit: 0})
    const last = await end((command) => {
      command.isFollowing = true
      command.exitStatus = 12
      return result
    }, '--json')
    expect(JSON.parse(last.stdout)).to.deep.equal({kind: 'result', ...json})
    expect(last.stdout.trimEnd()).to.not.contain('\n')
    expect(last.exit).to.equal(12)
    expect(await end(() => result)).to.deep.equal({stdout: '', stderr: '', exit: 0})
  })

  it('takes an error as the last line, too, when it followed', async () => {
    const {stdout, exit} = await end((command) => {
      command.isFollowing = true
      throw fail('interrupted', {what: 'waiting'})
    }, '--json')
    expect(JSON.parse(stdout)).to.have.nested.property('error.code', 'interrupted')
    expect(JSON.parse(stdout)).to.include({kind: 'result'})
    expect(exit).to.equal(130)
  })
})
