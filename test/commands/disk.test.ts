import {mkdirSync, mkdtempSync, rmSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {expect} from 'chai'
import {makeDisk, randomBytesOf} from '../support/disk-images.ts'
import {runCommand} from '../support/run-command.ts'

describe('imgstore disk', () => {
  let dir = ''
  let root = ''
  let disk = ''
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
    root = join(dir, 'images')
    disk = join(dir, 'debian.img')
    makeDisk(disk, 12 * 1024 * 1024, [{at: 100, bytes: randomBytesOf(1000)}])
  })
  afterEach(() => rmSync(dir, {recursive: true}))
  const publish = (...words: string[]) =>
    runCommand('disk', 'publish', disk, '--images-root', root, ...words)
  const json = (text: string): Record<string, unknown> =>
    JSON.parse(text) as Record<string, unknown>

  it('publishes, lists and verifies, in words and in JSON', async () => {
    const said = await publish('--id', 'debian', '--version', 'r1')
    const place = join(root, 'chunked/debian/r1')
    expect(said).to.deep.equal({
      stdout: `Published debian version r1 at ${place}\n  12.0 MiB in 3 chunks of 4.0 MiB, 2 of zeros; 3 chunks written, 4.0 KiB read\n`,
      stderr: '',
      exit: 0,
    })
    const again = await publish('--id', 'debian', '--version', 'r1', '--json')
    expect(json(again.stdout)).to.include({
      id: 'debian',
      version: 'r1',
      outcome: 'unchanged',
      total_size: 12_582_912,
      kept_chunks: 3,
    })
    writeFileSync(join(root, 'raw.img'), Buffer.alloc(512))
    const list = await runCommand('disk', 'list', '--images-root', root)
    expect(list.exit).to.equal(0)
    expect(list.stdout).to.match(
      /^ID +SIZE +ETAG +PUBLIC +CHUNKED\nraw\.img +512 B +"200-[0-9a-f-]+" +yes +-\ndebian +- +- +yes +r1\n$/,
    )
    const names = await runCommand('disk', 'list', '--images-root', root, '--quiet')
    expect(names.stdout).to.equal('raw.img\ndebian\n')
    const listed = json((await runCommand('disk', 'list', '--images-root', root, '--json')).stdout)
    expect(listed['chunked_only']).to.deep.equal([{id: 'debian', versions: ['r1']}])
    expect(listed['images']).to.have.nested.property('[0].last_modified').that.matches(/Z$/)

    const verified = await runCommand('disk', 'verify', place, '--read-data')
    expect(verified.stdout).to.match(/^Checked debian version r1: 3 chunks, .* read, 0 problems\n$/)
    expect(verified.exit).to.equal(0)
  })

  it('is silent with --quiet', async () => {
    expect(await publish('--quiet')).to.deep.equal({stdout: '', stderr: '', exit: 0})
    const place = join(root, 'chunked/debian.img')
    const verified = await runCommand('disk', 'verify', place, '--quiet')
    expect(verified).to.deep.equal({stdout: '', stderr: '', exit: 0})
  })

  it('exits 12 for what is damaged, and names it', async () => {
    await publish('--version', 'r1')
    const place = join(root, 'chunked/debian.img/r1')
    writeFileSync(join(place, 'chunks/00000001.bin'), 'short')
    const said = await runCommand('disk', 'verify', place)
    expect(said.exit).to.equal(12)
    expect(said.stdout).to.equal(
      'WRONG chunks/00000001.bin: it has 5 bytes, expected 4194304\nChecked debian.img version r1: 3 chunks, 1 problem\n',
    )
    const quiet = await runCommand('disk', 'verify', place, '--quiet')
    expect(quiet.exit).to.equal(12)
    expect(quiet.stdout).to.equal('WRONG chunks/00000001.bin: it has 5 bytes, expected 4194304\n')
    const inJson = await runCommand('disk', 'verify', place, '--json')
    expect(inJson.exit).to.equal(12)
    expect(json(inJson.stdout)).to.include({problem_count: 1, image_id: 'debian.img'})
  })

  it('exits with the code of what is wrong, and says what to do', async () => {
    const cases: [string[], number, string][] = [
      [['disk', 'publish', 'no-such-disk'], 10, 'no disk image of the store'],
      [['disk', 'publish', join(dir, 'none.img')], 10, 'there is no file'],
      [['disk', 'publish', 'http://me:hush@host/a.img'], 2, 'was given an address'],
      [['disk', 'publish', dir], 2, 'not a regular file'],
      [['disk', 'publish', disk, '--chunk-size', '1000'], 2, 'a multiple of 512'],
      [['disk', 'publish', disk, '--chunk-size', '65MiB'], 2, 'from 512B to 64MiB'],
      [['disk', 'publish', disk, '--concurrency', '0'], 2, 'from 1 to 64'],
      [['disk', 'publish', disk, '--to', 's3://b/p', '--images-root', root], 2, 'images-root'],
      [['disk', 'publish', disk, '--to', 's3://bucket/p'], 2, 'needs --version'],
      [['disk', 'verify', join(dir, 'none')], 10, 'there is nothing at'],
      [['disk', 'verify', dir], 10, 'no manifest.json'],
      [['disk', 'verify', 'http://127.0.0.1:9/x', '--max-attempts', '1'], 13, 'refused'],
      [['disk', 'list', '--images-root', join(dir, 'none')], 10, 'no images directory'],
    ]
    for (const [words, exit, text] of cases) {
      const said = await runCommand(...words)
      expect(said.exit, words.join(' ')).to.equal(exit)
      expect(said.stderr, words.join(' ')).to.contain(text)
      expect(said.stderr).to.match(/^Error: .*\n(Usage: .*\n)?Try: .*\n$/)
      expect(said.stderr).not.to.contain('hush')
    }
  })

  it('says what is left out of the list, with exit 3, and that a catalog is invalid, with exit 15', async () => {
    mkdirSync(root)
    const entry = {id: 'a', file: 'a.img', name: 'A'}
    writeFileSync(join(root, 'manifest.json'), JSON.stringify({images: [entry]}))
    const said = await runCommand('disk', 'list', '--images-root', root)
    expect(said.exit).to.equal(3)
    expect(said.stdout).to.match(/^No images\.\nLEFT OUT a: .+\n$/)
    writeFileSync(join(root, 'manifest.json'), '{')
    expect(await runCommand('disk', 'list', '--images-root', root)).to.have.property('exit', 15)
  })
})
