import {execFileSync} from 'node:child_process'
import {mkdtempSync, symlinkSync, writeFileSync} from 'node:fs'
import {rename, rm, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {pathToFileURL} from 'node:url'
import {expect} from 'chai'
import {openSource} from '../../../src/core/sources/source.ts'
import {sourceSuite} from '../../contract/source-suite.ts'
import {readBody, rejection, sourceOptions} from '../../support/source-options.ts'
import {withTempDir} from '../../support/temp-dir.ts'

const {signal} = new AbortController()

sourceSuite('file', (content) => {
  const dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
  const path = join(dir, 'image é%.tar')
  writeFileSync(path, content)
  return Promise.resolve({
    open: (options) => openSource(pathToFileURL(path).href, options),
    openMissing: (options) => openSource(pathToFileURL(`${path}.no`).href, options),
    async replaceContent(other) {
      await writeFile(`${path}.new`, other)
      await rename(`${path}.new`, path)
    },
    close: () => rm(dir, {recursive: true}),
  })
})

describe('the file source', () => {
  it('follows a symbolic link to a regular file', async () => {
    await withTempDir(async (dir) => {
      writeFileSync(join(dir, 'a'), 'content')
      symlinkSync('a', join(dir, 'b'))
      const source = await openSource(pathToFileURL(join(dir, 'b')).href, sourceOptions())
      expect(String(await readBody(await source.open({startByte: 0, signal})))).to.equal('content')
    })
  })

  it('refuses directories, devices and pipes without waiting', async () => {
    await withTempDir(async (dir) => {
      execFileSync('mkfifo', [join(dir, 'pipe')])
      for (const path of [dir, '/dev/zero', join(dir, 'pipe')]) {
        const source = await openSource(pathToFileURL(path).href, sourceOptions())
        expect(await rejection(source.open({startByte: 0, signal}))).to.have.property(
          'code',
          'source_refused',
        )
      }
    })
  })

  it('says so when the file shrinks while it is read', async () => {
    await withTempDir(async (dir) => {
      const path = join(dir, 'a')
      writeFileSync(path, Buffer.alloc(3 << 20))
      const source = await openSource(pathToFileURL(path).href, sourceOptions())
      const opened = await source.open({startByte: 0, signal})
      writeFileSync(path, Buffer.alloc(1 << 20))
      expect(await rejection(readBody(opened))).to.have.property('code', 'source_incomplete')
    })
  })

  it('gives an empty file', async () => {
    await withTempDir(async (dir) => {
      writeFileSync(join(dir, 'a'), '')
      const source = await openSource(pathToFileURL(join(dir, 'a')).href, sourceOptions())
      const opened = await source.open({startByte: 0, signal})
      expect(opened.totalBytes).to.equal(0)
      expect((await readBody(opened)).length).to.equal(0)
    })
  })
})
