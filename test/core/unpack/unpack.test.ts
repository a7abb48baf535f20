/** The process around the extractor: that it is one of its own, dies when it should, and tells what happened. */
import {spawn} from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {ImgstoreError} from '../../../src/core/errors.ts'
import {GiB, resolveLimits} from '../../../src/core/limits.ts'
import {landlockVersion} from '../../../src/core/syscalls/confine.ts'
import {unpack, type UnpackRequest} from '../../../src/core/unpack/unpack.ts'
import {archive, directory, file} from '../../support/tar-builder.ts'
import {withTempDir} from '../../support/temp-dir.ts'

/** Makes a request for `bytes`; `endless` adds padding that takes many seconds to read, and no space. */
function request(dir: string, bytes: Buffer, options: {endless?: boolean} = {}): UnpackRequest {
  const blobPath = join(dir, 'blob.tar')
  const targetDir = join(dir, 'root')
  writeFileSync(blobPath, bytes)
  if (options.endless) truncateSync(blobPath, 200 * GiB)
  mkdirSync(targetDir, {mode: 0o700})
  return {blobPath, targetDir, profile: 'image', limits: resolveLimits('image', {})}
}

async function failureOf(work: Promise<unknown>): Promise<ImgstoreError> {
  try {
    await work
  } catch (error) {
    if (error instanceof ImgstoreError) return error
    throw error
  }
  throw new Error('it did not fail')
}

function childrenOf(pid: number): number[] {
  const found: number[] = []
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    const list = readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8')
    found.push(...list.split(' ').filter(Boolean).map(Number))
  }
  return found
}

const small = archive(directory('./'), directory('etc'), file('etc/hostname', 'here\n'))

describe('unpack', () => {
  it('unpacks in another process and says what it made', () =>
    withTempDir(async (dir) => {
      const progress: number[] = []
      const result = await unpack({
        ...request(dir, small),
        onProgress: ({readBytes}) => progress.push(readBytes),
      })
      expect(result).to.deep.equal({
        format: 'tar',
        entries: 3,
        files: 1,
        totalBytes: 5,
        isConfined: landlockVersion() >= 2,
        warnings: [],
        warningsTotal: 0,
      })
      expect(readFileSync(join(dir, 'root/etc/hostname'), 'utf8')).to.equal('here\n')
      expect(progress).to.deep.equal([small.length])
      expect(childrenOf(process.pid)).to.deep.equal([])
    }))

  it('hands a refusal on with everything it says', () =>
    withTempDir(async (dir) => {
      const error = await failureOf(unpack(request(dir, archive(file('../x', 'x')))))
      expect(error.code).to.equal('unsafe_archive')
      expect(error.details).to.deep.equal({entry: '../x', offset: 0, rule: 'has ".." in its name'})
    }))

  it('reports at most a hundred warnings and counts the rest', () =>
    withTempDir(async (dir) => {
      const many = Array.from({length: 150}, (_, i) => file(`/f${i}`))
      const result = await unpack(request(dir, archive(...many)))
      expect(result.warnings).to.have.length(100)
      expect(result.warnings[0]).to.include({code: 'absolute_name', entry: '/f0'})
      expect(result.warningsTotal).to.equal(150)
    }))

  it('refuses a target that is not empty, not there, or a symbolic link', () =>
    withTempDir(async (dir) => {
      const job = request(dir, small)
      writeFileSync(join(dir, 'root/old'), 'x')
      expect(await failureOf(unpack(job))).to.include({code: 'internal'})
      const missing = await failureOf(unpack({...job, targetDir: join(dir, 'missing')}))
      expect(missing.code).to.equal('io_failed')
      mkdirSync(join(dir, 'elsewhere'))
      symlinkSync('elsewhere', join(dir, 'link'))
      const link = await failureOf(unpack({...job, targetDir: join(dir, 'link')}))
      expect(link.code).to.equal('io_failed')
      expect(readdirSync(join(dir, 'elsewhere'))).to.deep.equal([])
    }))

  it('says when the blob is missing', () =>
    withTempDir(async (dir) => {
      const job = {...request(dir, small), blobPath: join(dir, 'missing')}
      expect(await failureOf(unpack(job))).to.include({code: 'io_failed'})
    }))

  it('does not begin when it is already interrupted', () =>
    withTempDir(async (dir) => {
      const work = unpack({...request(dir, small), signal: AbortSignal.abort()})
      expect(await failureOf(work)).to.include({code: 'interrupted'})
      expect(readdirSync(join(dir, 'root'))).to.deep.equal([])
    }))

  it('stops at once when it is interrupted, and leaves no process', () =>
    withTempDir(async (dir) => {
      const abort = new AbortController()
      const work = unpack({
        ...request(dir, small, {endless: true}),
        signal: abort.signal,
        onProgress: () => abort.abort(),
      })
      expect(await failureOf(work)).to.include({code: 'interrupted'})
      expect(childrenOf(process.pid)).to.deep.equal([])
    }))

  it('turns the death of its process into a failure of this archive', () =>
    withTempDir(async (dir) => {
      const work = unpack({
        ...request(dir, small, {endless: true}),
        onProgress: () => {
          for (const pid of childrenOf(process.pid)) process.kill(pid, 'SIGKILL')
        },
      })
      const error = await failureOf(work)
      expect(error.code).to.equal('unpack_failed')
      expect(error.message).to.match(/killed by SIGKILL/)
    }))

  it('gives its process nothing of the environment', () =>
    withTempDir(async (dir) => {
      process.env['IMGSTORE_TEST_SECRET'] = 'secret'
      process.env['NODE_OPTIONS'] = '--require=/nonexistent/file.js'
      const seen: string[] = []
      const abort = new AbortController()
      try {
        const work = unpack({
          ...request(dir, small, {endless: true}),
          signal: abort.signal,
          onProgress: () => {
            for (const pid of childrenOf(process.pid)) {
              seen.push(readFileSync(`/proc/${pid}/environ`, 'utf8'))
            }
            abort.abort()
          },
        })
        expect(await failureOf(work)).to.include({code: 'interrupted'})
      } finally {
        delete process.env['IMGSTORE_TEST_SECRET']
        delete process.env['NODE_OPTIONS']
      }
      expect(seen[0]).to.be.a('string')
      expect(seen[0]).to.not.match(/SECRET|NODE_OPTIONS|PATH|HOME/)
    }))

  it('ends its process when the one that asked is killed', () =>
    withTempDir(async (dir) => {
      const job = request(dir, small, {endless: true})
      const script = `
        import {unpack} from ${JSON.stringify(join(import.meta.dirname, '../../../src/core/unpack/unpack.ts'))}
        await unpack({...${JSON.stringify(job)}, onProgress: () => console.log('working')})
      `
      const parent = spawn(process.execPath, ['--input-type=module', '-e', script], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      await new Promise((resolve) => parent.stdout.once('data', resolve))
      const [worker] = childrenOf(parent.pid ?? 0)
      if (worker === undefined) throw new Error('there is no worker')
      parent.kill('SIGKILL')
      for (let waited = 0; existsSync(`/proc/${worker}`); waited += 20) {
        if (waited > 10_000) throw new Error('the worker lives on')
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
      expect(existsSync(`/proc/${worker}`)).to.equal(false)
    }))
})
