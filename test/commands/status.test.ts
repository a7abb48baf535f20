import {existsSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {lines, objects, withStore} from '../support/command-store.ts'

describe('imgstore status and list', () => {
  it('find an empty store where there is none, make nothing, and say which it is and why', () =>
    withStore(async ({run, json, dir}) => {
      const status = await run('status')
      expect(status.exit).to.equal(0)
      expect(lines(status.stdout)).to.deep.equal([
        'No images.',
        '',
        `Store: ${join(dir, 'store')} (flag --store)`,
      ])
      expect(await json('status')).to.deep.equal({
        images: [],
        store: {
          path: join(dir, 'store'),
          origin: 'flag --store',
          database: join(dir, 'store.db'),
        },
        exit: 0,
      })
      expect((await run('list')).stdout).to.equal('No images.\n')
      expect(await json('list')).to.deep.equal({images: [], exit: 0})
      expect((await json('runs', 'list'))['runs']).to.deep.equal([])
      expect((await json('events'))['events']).to.deep.equal([])
      expect(existsSync(join(dir, 'store'))).to.equal(false)
      expect(existsSync(join(dir, 'store.db'))).to.equal(false)
    }))

  it('show every image, and with --quiet only the names or states', () =>
    withStore(async ({run, json, server, fetched}) => {
      await fetched('b')
      await run('fetch', 'a', server.url, server.digest)
      const list = lines((await run('list')).stdout)
      expect(list[0]).to.match(/^NAME +STATE +SIZE +CHANGED +REMARK$/)
      expect(list[1]).to.match(/^a +NEW +.*waits for a worker$/)
      expect(list[2]).to.match(/^b +STORED +\d+\.\d KiB +/)
      expect((await run('list', '--quiet')).stdout).to.equal('a\nb\n')
      expect((await run('status', '--quiet')).stdout).to.equal('a NEW\nb STORED\n')
      expect((await run('status', 'b', '--quiet')).stdout).to.equal('STORED\n')
      const {images} = (await json('list')) as unknown as {images: {name: string}[]}
      expect(images.map((image) => image.name)).to.deep.equal(['a', 'b'])
    }))

  it('do not know an image that is not there, exit 10', () =>
    withStore(async ({run, json}) => {
      const ran = await run('status', 'nosuch')
      expect(ran.exit).to.equal(10)
      expect(ran.stderr).to.match(
        /^Error: there is no image named "nosuch".*\nTry: `imgstore list`/,
      )
      expect((await json('status', 'nosuch')).exit).to.equal(10)
    }))

  it('show a hostile address without its secrets and its escapes', () =>
    withStore(async ({run, server}) => {
      const url = `http://user:geheim@h/\u001b[31m?token=abc`
      await run('fetch', 'web', url, server.digest)
      const {stdout} = await run('status', 'web')
      expect(stdout).to.not.contain('\u001b')
      expect(stdout).to.not.contain('geheim')
      expect(stdout).to.not.contain('token=abc')
    }))

  it('watch until the image settles, without working on it', () =>
    withStore(async ({run, server, fetched}) => {
      await fetched('web')
      const ran = await run('status', 'web', '--watch')
      expect(ran.exit).to.equal(0)
      expect(lines(ran.stdout)[0]).to.equal('Image web: STORED')
      await run('fetch', 'new', server.url, server.digest)
      const json = await run('status', 'web', '--watch', '--json')
      expect(objects(json.stdout).at(-1)).to.include({kind: 'result', state: 'STORED'})
      expect((await run('status', '--watch')).exit).to.equal(2)
    }))
})
