import {existsSync, readdirSync, truncateSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {lines, objects, withStore, type Bench} from '../support/command-store.ts'

describe('imgstore remove, cleanup and verify', () => {
  it('remove asks nothing, and the name is free again', () =>
    withStore(async ({run, dir, fetched}) => {
      await fetched('web')
      const ran = await run('remove', 'web')
      expect(lines(ran.stdout).at(-1)).to.equal('Removed image web')
      expect(ran.exit).to.equal(0)
      expect(existsSync(join(dir, 'store/images/web'))).to.equal(false)
      expect((await run('remove', 'web')).exit).to.equal(10)
    }))

  it('remove --no-wait leaves it to a worker', () =>
    withStore(async ({run, json, fetched}) => {
      await fetched('web')
      const ran = await run('remove', 'web', '--no-wait')
      expect(ran.stdout).to.equal('Enqueued removal of image web\n')
      expect(await json('status', 'web')).to.include({state: 'STORED', goal: 'REMOVED'})
    }))

  it('remove --json ends with the outcome', () =>
    withStore(async ({run, fetched}) => {
      await fetched('web')
      const {stdout} = await run('remove', 'web', '--json')
      expect(objects(stdout).at(-1)).to.deep.equal({
        kind: 'result',
        name: 'web',
        outcome: 'removed',
      })
    }))

  it('cleanup says what it would free, then frees it', () =>
    withStore(async ({run, json, dir, fetched}) => {
      await fetched('web')
      const orphan = join(dir, 'store/blobs', `${'ab'.repeat(32)}.tar`)
      writeFileSync(orphan, Buffer.alloc(2048))
      const dry = await run('cleanup', '--dry-run')
      expect(lines(dry.stdout).at(-1)).to.equal('Would remove 1 item and free 2.0 KiB')
      expect(dry.stdout).to.contain(orphan)
      expect(existsSync(orphan)).to.equal(true)
      const report = await json('cleanup')
      expect(report).to.include({is_dry_run: false, freed_bytes: 2048, exit: 0})
      expect(existsSync(orphan)).to.equal(false)
      const nothing = await run('cleanup')
      expect(nothing.stdout).to.equal('Nothing to remove: freed 0 B\n')
      expect(readdirSync(join(dir, 'store/blobs'))).to.include(`${await digestOf(json)}.tar`)
    }))

  it('verify finds a damaged archive, moves it away, exits 12 and fetches it again', () =>
    withStore(async ({run, json, dir, fetched}) => {
      await fetched('web')
      const good = await run('verify')
      expect(good.exit).to.equal(0)
      expect(lines(good.stdout).at(-1)).to.match(/^Checked 1 archive, .* 0 damaged, 0 missing$/)
      const digest = await digestOf(json)
      truncateSync(join(dir, 'store/blobs', `${digest}.tar`), 1000)
      const bad = await run('verify', 'web', '--no-repair')
      expect(bad.exit).to.equal(12)
      expect(bad.stdout).to.match(new RegExp(`^DAMAGED sha256:${digest} \\(used by web\\): `, 'm'))
      const missing = await json('verify')
      expect(missing.exit).to.equal(12)
      expect(missing['missing']).to.deep.equal([{digest, images: ['web']}])
      expect(missing['repairs']).to.deep.equal([{what: 'blob', of: digest}])
      expect((await run('verify')).exit).to.equal(0)
      truncateSync(join(dir, 'store/blobs', `${digest}.tar`), 1000)
      const mended = await run('verify')
      expect(mended.exit).to.equal(12)
      expect(mended.stdout).to.match(new RegExp(`^FETCHED AGAIN sha256:${digest}$`, 'm'))
      expect((await run('verify')).exit).to.equal(0)
      expect((await run('verify', 'nosuch')).exit).to.equal(10)
    }))
})

async function digestOf(json: Bench['json']): Promise<string> {
  return (await json('status', 'web'))['digest'] as string
}

describe('imgstore runs and events', () => {
  it('show what happened', () =>
    withStore(async ({run, json, fetched}) => {
      await fetched('web')
      const [id = ''] = lines((await run('runs', 'list', '--quiet')).stdout)
      expect(id).to.match(/^[0-9A-Z]{26}$/)
      const table = lines((await run('runs', 'list', 'web')).stdout)
      expect(table[1]).to.match(new RegExp(`^${id} +web +STORED +done +publish `))
      const shown = await run('runs', 'show', id)
      expect(lines(shown.stdout)[0]).to.equal(`Run ${id}: done`)
      expect(shown.stdout).to.contain('DOWNLOADING → DOWNLOADED')
      expect((await run('runs', 'show', id.slice(0, 20), '-q')).stdout).to.equal('done\n')
      expect((await run('runs', 'show', '0'.repeat(26))).exit).to.equal(10)
      expect((await json('runs', 'list', '--open'))['runs']).to.deep.equal([])
      const events = (await json('events', 'web', '--limit', '2')) as unknown as {
        events: {to: string}[]
      }
      expect(events.events.map((event) => event.to)).to.deep.equal(['UNPACKED', 'STORED'])
      expect(lines((await run('events')).stdout).at(-1)).to.match(
        /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ {2}web {2}UNPACKED → STORED/,
      )
      expect((await run('events', '--limit', '-1')).exit).to.equal(2)
    }))
})

describe('imgstore doctor', () => {
  it('says what the host has, and every setting with its origin', () =>
    withStore(async ({run, json, dir}) => {
      const ran = await run('doctor', '--settings')
      expect(ran.stdout).to.match(/^ok {4}program /m)
      expect(ran.stdout).to.match(
        new RegExp(`^store +${join(dir, 'store')} +flag --store +--store`, 'm'),
      )
      expect(ran.stdout).to.match(/^s3SecretAccessKey /m)
      const report = await json('doctor')
      expect(report['is_ok']).to.equal(report.exit === 0)
      expect(report['settings']).to.be.an('array')
    }))
})
