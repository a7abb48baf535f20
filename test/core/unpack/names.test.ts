import {posix} from 'node:path'
import {expect} from 'chai'
import fc from 'fast-check'
import {depthOf, leavesTree, normalName, splitPath} from '../../../src/core/unpack/archive/names.ts'
import {displayName} from '../../../src/core/unpack/archive/entry.ts'

const part = fc.constantFrom('a', 'b', 'usr', '.', '..', '', '...', '..a', 'a..', ' ')
const anyName = fc.array(part, {minLength: 1, maxLength: 8}).map((parts) => parts.join('/'))

describe('names of entries', () => {
  it('drops what says nothing', () => {
    for (const name of ['./a/b', 'a//b', 'a/./b', 'a/b/', './/a/b/.']) {
      expect(normalName(name, {allowAbsolute: false})).to.deep.equal({
        isSafe: true,
        path: 'a/b',
        wasAbsolute: false,
      })
    }
    expect(normalName('./', {allowAbsolute: false})).to.deep.include({path: ''})
  })

  it('takes an absolute name as the root’s where that is allowed', () => {
    expect(normalName('//a', {allowAbsolute: true})).to.deep.equal({
      isSafe: true,
      path: 'a',
      wasAbsolute: true,
    })
    expect(normalName('/a', {allowAbsolute: false})).to.deep.include({isSafe: false})
  })

  it('never yields a path that leaves the root, and agrees with POSIX on the rest', () => {
    fc.assert(
      fc.property(anyName, (name) => {
        const read = normalName(name, {allowAbsolute: true})
        const parts = name.split('/')
        if (!read.isSafe) {
          expect(parts.includes('..') || name === '').to.equal(true)
          return
        }
        expect(parts).to.not.include('..')
        expect(`/${read.path}`).to.equal(posix.resolve('/', name))
        expect(depthOf(read.path)).to.equal(read.path === '' ? 0 : read.path.split('/').length)
        const {parent, base} = splitPath(read.path)
        expect(posix.join(parent, base)).to.equal(read.path === '' ? '.' : read.path)
      }),
      {verbose: true, numRuns: 1000},
    )
  })

  it('knows by its text when a link leaves the tree', () => {
    expect(leavesTree('a', '/etc')).to.equal(true)
    expect(leavesTree('a', '..')).to.equal(true)
    expect(leavesTree('a/b', '..')).to.equal(false)
    expect(leavesTree('a/b', '../..')).to.equal(true)
    expect(leavesTree('a/b', 'c/../../..')).to.equal(true)
    expect(leavesTree('a/b', '../c')).to.equal(false)
  })

  it('agrees with a resolution from a deep root about links', () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom('x', 'y'), {minLength: 1, maxLength: 4}),
        anyName,
        (at, target) => {
          fc.pre(!target.startsWith('/'))
          // A root 20 deep that no such target climbs out of; a path passes the root when any prefix does.
          const root = `/r${'/r'.repeat(19)}`
          let position = posix.dirname(posix.join(root, ...at))
          let leaves = false
          for (const step of target.split('/')) {
            position = posix.join(position, step === '' ? '.' : step)
            if (!`${position}/`.startsWith(`${root}/`)) leaves = true
          }
          expect(leavesTree(at.join('/'), target)).to.equal(leaves)
        },
      ),
      {verbose: true, numRuns: 1000},
    )
  })

  it('shows bytes that are not UTF-8 as escapes', () => {
    expect(displayName(Buffer.from('caf\u00e9').toString('latin1'))).to.equal('café')
    expect(displayName('caf\xe9')).to.equal('caf\\xe9')
  })
})
