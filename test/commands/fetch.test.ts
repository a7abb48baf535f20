/** Fetching, as a person or a script types it, without root: images end STORED. */
import {existsSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {lines, objects, withStore} from '../support/command-store.ts'

const wrongDigest = '0'.repeat(64)

describe('imgstore fetch', () => {
  it('enqueues, and says so in the words that scripts know', () =>
    withStore(async ({run, server}) => {
      const ran = await run('fetch', 'web', server.url, server.digest)
      expect(ran).to.deep.equal({stdout: 'Enqueued image web\n', stderr: '', exit: 0})
      const status = await run('status', 'web')
      expect(lines(status.stdout)[0]).to.equal('Image web: NEW')
    }))

  it('takes a checksum in any case, with its algorithm or without', () =>
    withStore(async ({json, server}) => {
      const digest = `sha256:${server.digest.toUpperCase()}`
      const status = await json('fetch', 'web', server.url, digest)
      expect(status).to.include({
        outcome: 'enqueued',
        state: 'NEW',
        goal: 'ACTIVE',
        digest: server.digest,
      })
    }))

  it('with --wait shows every state and does the work here when no worker runs', () =>
    withStore(async ({run, server, dir}) => {
      const ran = await run('fetch', 'web', server.url, server.digest, '--no-activate', '--wait')
      const states = lines(ran.stdout).map((line) => line.replace(/ \(.*| [\d.]+ .iB.*/, ''))
      expect(states).to.include.members([
        'Enqueued image web',
        'web: DOWNLOADING',
        'web: DOWNLOADED',
        'web: UNPACKING',
        'web: UNPACKED',
        'web: STORED',
      ])
      expect(lines(ran.stdout).at(-1)).to.equal('Image web: STORED')
      expect(ran.stderr).to.equal('')
      expect(ran.exit).to.equal(0)
      expect(existsSync(join(dir, 'store/images/web/rootfs/etc/hello'))).to.equal(true)
    }))

  it('with --wait --json prints an object a line, the last one being the result', () =>
    withStore(async ({run, server}) => {
      const words = ['fetch', 'web', server.url, server.digest, '--no-activate', '-w', '--json']
      const ran = await run(...words)
      const all = objects(ran.stdout)
      const last = all.pop()
      expect(new Set(all.map((o) => o['kind']))).to.include('event')
      for (const object of all) expect(object['kind']).to.be.oneOf(['event', 'progress'])
      expect(last).to.include({kind: 'result', name: 'web', state: 'STORED', outcome: 'reached'})
      expect(last).to.not.have.property('error')
      const to = all.map((o) => (o['event'] as {to?: string} | undefined)?.to).filter(Boolean)
      expect(to.at(-1)).to.equal('STORED')
    }))

  it('is silent with --quiet', () =>
    withStore(async ({run, server}) => {
      const words = ['fetch', 'web', server.url, server.digest, '--no-activate', '-w', '-q']
      expect(await run(...words)).to.deep.equal({stdout: '', stderr: '', exit: 0})
    }))

  it('reports the state of the same name and source, and refuses another source, exit 11', () =>
    withStore(async ({run, json, server, fetched}) => {
      await fetched('web')
      const same = await run('fetch', 'web', server.url, server.digest)
      expect(same.stdout).to.equal('Image web: STORED\n')
      expect(same.exit).to.equal(0)
      const other = await json('fetch', 'web', `${server.url}?other`, server.digest)
      expect(other.exit).to.equal(11)
      expect(other['error']).to.include({code: 'name_taken'})
    }))

  it('replaces an image when told to', () =>
    withStore(async ({json, run, server, fetched}) => {
      await fetched('web')
      const url = server.url.replace('127.0.0.1', 'localhost')
      const replaced = await json('fetch', 'web', url, server.digest, '--replace')
      expect(replaced).to.include({outcome: 'replaced', state: 'NEW', url, exit: 0})
      const words = ['fetch', 'web', server.url, server.digest, '--no-activate', '--wait']
      const again = await run(...words, '--replace')
      expect(lines(again.stdout)[0]).to.equal('Enqueued image web')
      expect(lines(again.stdout).at(-1)).to.equal('Image web: STORED')
    }))

  it('keeps the limits and the profile that were asked for', () =>
    withStore(async ({json, server}) => {
      const words = ['fetch', 'web', server.url, server.digest, '--profile', 'image']
      const status = await json(...words, '--max-files', '7', '--max-file-size', '1KiB')
      expect(status).to.deep.include({
        profile: 'image',
        limits: {files_max: 7, file_bytes_max: 1024},
      })
    }))

  it('exits with the code of what failed, and says what to do: wrong checksum', () =>
    withStore(async ({run, json, server}) => {
      const ran = await run('fetch', 'web', server.url, wrongDigest, '--wait')
      expect(ran.exit).to.equal(12)
      expect(lines(ran.stdout).at(-1)).to.equal('Image web: FAILED')
      expect(ran.stderr).to.match(
        /^Error: the content has digest sha256:[0-9a-f]{64}, expected .+\nTry: .+\n$/,
      )
      // Reporting a failed image is no failure.
      const status = await json('status', 'web')
      expect(status.exit).to.equal(0)
      expect(status).to.include({state: 'FAILED'})
      expect(status['failed']).to.include({code: 'digest_mismatch', from: 'DOWNLOADING'})
      const words = await run('status', 'web')
      expect(words.stdout).to.match(/\n {2}came from +DOWNLOADING\n/)
      expect(words.stdout).to.contain('(digest_mismatch)')
    }))

  it('exits 13 for a source that has nothing there, with the error in the last line of JSON', () =>
    withStore(async ({run, server}) => {
      const url = `${server.url}.nothing`
      const ran = await run('fetch', 'web', url, server.digest, '--wait', '--json')
      expect(ran.exit).to.equal(13)
      const last = objects(ran.stdout).at(-1)
      expect(last).to.include({kind: 'result', outcome: 'failed', state: 'FAILED'})
      expect(last?.['error']).to.include({code: 'source_not_found'})
      expect((last?.['error'] as {hint: string}).hint).to.contain('imgstore retry web')
    }))

  it('names the flag that lets an archive pass, and retry goes on without a new download', () =>
    withStore(async ({run, server}) => {
      const words = ['fetch', 'web', server.url, server.digest, '--no-activate', '--wait']
      const refused = await run(...words, '--max-file-size', '1KiB')
      expect(refused.exit).to.equal(16)
      expect(refused.stderr).to.contain('--max-file-size')
      const requests = server.ranges.length
      const retried = await run('retry', 'web', '--max-file-size', '1MiB')
      expect(retried.exit, retried.stderr).to.equal(0)
      expect(lines(retried.stdout).at(-1)).to.equal('Image web: STORED')
      expect(server.ranges).to.have.length(requests)
    }))

  it('exits 18 when --timeout is over, and the image can be gone on with', () =>
    withStore(async ({run, server}) => {
      server.isStalling = true
      const words = ['fetch', 'web', server.url, server.digest, '--no-activate', '--wait']
      const late = await run(...words, '--timeout', '400ms')
      expect(late.exit).to.equal(18)
      expect(late.stderr).to.match(/^Error: waited 400 ms for image "web".*\nTry: .*status web/)
      server.isStalling = false
      const ran = await run(...words)
      expect(lines(ran.stdout).at(-1)).to.equal('Image web: STORED')
    }))

  for (const [what, words, code] of [
    ['a name that would leave the store', ['../x', 'http://h/x', wrongDigest], 'invalid_name'],
    ['a checksum that is none', ['web', 'http://h/x', 'abc123'], 'invalid_digest'],
    ['an address that is none', ['web', 'gopher://h/x', wrongDigest], 'invalid_source'],
    ['a local file nobody allowed', ['web', 'file:///etc/passwd', wrongDigest], 'invalid_source'],
    [
      'a limit out of range',
      ['web', 'http://h/x', wrongDigest, '--max-files', '0'],
      'invalid_setting',
    ],
    [
      'a wait of no length',
      ['web', 'http://h/x', wrongDigest, '-w', '--timeout', 'x'],
      'invalid_setting',
    ],
    ['a missing argument', ['web', 'http://h/x'], 'wrong_usage'],
    ['a superfluous argument', ['web', 'http://h/x', wrongDigest, 'y'], 'wrong_usage'],
  ] as const) {
    it(`refuses ${what} with exit 2`, () =>
      withStore(async ({json}) => {
        const {error, exit} = await json('fetch', ...words)
        expect(error).to.include({code})
        expect(exit).to.equal(2)
      }))
  }

  it('says what is missing and how it is used', () =>
    withStore(async ({run}) => {
      const ran = await run('fetch', 'web')
      expect(lines(ran.stderr).slice(0, 2)).to.deep.equal([
        'Error: Missing 2 required args: url, checksum',
        'Usage: imgstore fetch <name> <url> <checksum>',
      ])
    }))
})
