import {existsSync, mkdtempSync, rmSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {expect} from 'chai'
import {acquireLock} from '../../../src/core/syscalls/lock.ts'

describe('the lock of a place', () => {
  let dir = ''
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
  })
  afterEach(() => rmSync(dir, {recursive: true}))

  it('is held by one, and given free with its file', () => {
    const path = join(dir, 'lock')
    const lock = acquireLock(path)
    expect(lock).to.not.equal(undefined)
    expect(acquireLock(path)).to.equal(undefined)
    lock?.release()
    expect(existsSync(path)).to.equal(false)
    const again = acquireLock(path)
    expect(again).to.not.equal(undefined)
    again?.release()
  })

  it('is not hindered by a file that a killed process left', () => {
    const path = join(dir, 'lock')
    writeFileSync(path, '')
    const lock = acquireLock(path)
    expect(lock).to.not.equal(undefined)
    lock?.release()
  })

  it('says where it could not be taken', () => {
    expect(() => acquireLock(join(dir, 'none/lock')))
      .to.throw()
      .with.property('code', 'io_failed')
  })
})
