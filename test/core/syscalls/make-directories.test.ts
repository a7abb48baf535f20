import {mkdirSync, statSync, symlinkSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {makeDirectories} from '../../../src/core/syscalls/make-directories.ts'
import {withTempDir} from '../../support/temp-dir.ts'

describe('making directories', () => {
  it('makes what is missing, tells the topmost, and leaves what is there', () =>
    withTempDir((dir) => {
      expect(makeDirectories(join(dir, 'a/b/c'), 0o700)).to.equal(join(dir, 'a'))
      expect(statSync(join(dir, 'a/b/c')).mode & 0o777).to.equal(0o700)
      expect(makeDirectories(join(dir, 'a/b/c'))).to.equal(undefined)
      expect(makeDirectories(join(dir, 'a/b/d'))).to.equal(join(dir, 'a/b/d'))
      mkdirSync(join(dir, 'real'))
      symlinkSync('real', join(dir, 'link'))
      expect(makeDirectories(join(dir, 'link'))).to.equal(undefined)
      return Promise.resolve()
    }))

  it('says what is in the way', () =>
    withTempDir((dir) => {
      writeFileSync(join(dir, 'file'), '')
      const codeOf = (path: string): unknown => {
        try {
          return makeDirectories(join(dir, path))
        } catch (error) {
          return (error as NodeJS.ErrnoException).code
        }
      }
      expect(codeOf('file')).to.equal('EEXIST')
      expect(codeOf('file/below')).to.equal('ENOTDIR')
      symlinkSync('nowhere', join(dir, 'dangling'))
      expect(codeOf('dangling')).to.be.oneOf(['EEXIST', 'ENOENT'])
      return Promise.resolve()
    }))
})
