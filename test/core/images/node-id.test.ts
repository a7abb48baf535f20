import {spawn} from 'node:child_process'
import {once} from 'node:events'
import {mkdirSync, readdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {ensureNodeId, readNodeId} from '../../../src/core/images/node-id.ts'
import {withTempDir} from '../../support/temp-dir.ts'

describe('the id of a host', () => {
  it('is made once and stays', async () => {
    await withTempDir((dir) => {
      const file = join(dir, 'deep/node-id')
      expect(readNodeId(file)).to.equal(undefined)
      const id = ensureNodeId(file, Date.now())
      expect(id).to.match(/^[0-9A-Z]{26}$/)
      expect(ensureNodeId(file, Date.now())).to.equal(id)
      expect(readdirSync(join(dir, 'deep'))).to.deep.equal(['node-id'])
    })
  })

  it('is the same for all who make it at once', async () => {
    await withTempDir(async (dir) => {
      const file = join(dir, 'node-id')
      const script = `import('./src/core/images/node-id.ts').then(({ensureNodeId}) =>
        console.log(ensureNodeId(${JSON.stringify(file)}, Date.now())))`
      const ids = await Promise.all(
        Array.from({length: 4}, async () => {
          const child = spawn(process.execPath, ['--no-warnings', '-e', script])
          const [said] = (await once(child.stdout, 'data')) as [Buffer]
          await once(child, 'close')
          return said.toString().trim()
        }),
      )
      expect(new Set(ids).size).to.equal(1)
      expect(readNodeId(file)).to.equal(ids[0])
      expect(readdirSync(dir)).to.deep.equal(['node-id'])
    })
  })

  it('is refused when the file holds something else', async () => {
    await withTempDir((dir) => {
      const file = join(dir, 'node-id')
      for (const text of ['', 'a b', '../x', 'x'.repeat(200), '\0']) {
        writeFileSync(file, text)
        expect(() => ensureNodeId(file, 1), JSON.stringify(text))
          .to.throw()
          .with.property('code', 'store_invalid')
      }
      mkdirSync(join(dir, 'directory'))
      expect(() => ensureNodeId(join(dir, 'directory'), 1))
        .to.throw()
        .with.property('code', 'io_failed')
    })
  })
})
