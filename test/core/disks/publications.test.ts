import {
  chmodSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {
  openPublications,
  parsePublicationName,
  publishDisk,
  readPublication,
  withdrawDisk,
} from '../../../src/core/disks/publications.ts'
import type {Digest} from '../../../src/core/digest.ts'
import {withTempDir} from '../../support/temp-dir.ts'

const sha256 = 'ab'.repeat(32) as Digest

/** A folder for publications, and what shows a disk of these bytes in it. */
async function withFolder(
  body: (o: {
    dir: string
    show: (name: string, treeId: string, text: string) => string
  }) => Promise<void> | void,
): Promise<void> {
  await withTempDir(async (top) => {
    const dir = join(top, 'disks')
    const show = (name: string, treeId: string, text: string): string => {
      const source = join(top, `${treeId}.src`)
      writeFileSync(source, text, {mode: 0o600})
      publishDisk(dir, {name, treeId, source, size: text.length, sha256})
      return source
    }
    await body({dir, show})
  })
}

describe('disks that are shown', () => {
  it('are seen with their bytes, which are not copied and not writable', () =>
    withFolder(({dir, show}) => {
      const source = show('one', 'A-1', 'bytes')
      const [disk, ...others] = openPublications(dir)()
      expect(others).to.deep.equal([])
      expect(disk).to.deep.equal({
        id: 'one',
        name: 'one',
        isPublic: true,
        path: join(dir, 'A-1.raw'),
        size: 5,
        sha256,
      })
      expect(readFileSync(disk?.path ?? '', 'utf8')).to.equal('bytes')
      expect(statSync(source).ino).to.equal(statSync(disk?.path ?? '').ino)
      expect(statSync(source).mode & 0o777).to.equal(0o444)
    }))

  it('may be shown again, and change', () =>
    withFolder(({dir, show}) => {
      const look = openPublications(dir)
      show('one', 'A-1', 'bytes')
      expect(look()[0]?.size).to.equal(5)
      show('one', 'A-2', 'other bytes')
      expect(look().map(({path, size}) => [path, size])).to.deep.equal([[join(dir, 'A-2.raw'), 11]])
      chmodSync(join(dir, '..', 'A-2.src'), 0o600)
      show('one', 'A-2', 'other bytes')
      expect(readdirSync(dir).sort()).to.deep.equal(['A-2.raw', 'one.json'])
    }))

  it('go, and come again', () =>
    withFolder(({dir, show}) => {
      const look = openPublications(dir)
      expect(look()).to.deep.equal([])
      expect(withdrawDisk(dir, {name: 'one'})).to.equal(false)
      show('one', 'A-1', 'bytes')
      show('two', 'B-1', 'more')
      expect(look().map(({id}) => id)).to.deep.equal(['one', 'two'])
      expect(withdrawDisk(dir, {name: 'one'})).to.equal(true)
      expect(look().map(({id}) => id)).to.deep.equal(['two'])
      expect(readPublication(dir, 'one')).to.equal(undefined)
      expect(readdirSync(dir).sort()).to.deep.equal(['B-1.raw', 'two.json'])
    }))

  it('go with their bytes, also when their note cannot be read or is gone already', () =>
    withFolder(({dir, show}) => {
      for (const spoil of [truncateSync, rmSync]) {
        show('one', 'A-1', 'bytes')
        spoil(join(dir, 'one.json'))
        withdrawDisk(dir, {name: 'one', treeId: 'A-1'})
        expect(readdirSync(dir)).to.deep.equal([])
      }
      show('one', 'A-2', 'bytes')
      expect(withdrawDisk(dir, {name: 'one', treeId: 'A-1'})).to.equal(true)
      expect(readdirSync(dir)).to.deep.equal([])
    }))

  it('are looked for again only when the folder has changed', () =>
    withFolder(({dir, show}) => {
      show('one', 'A-1', 'bytes')
      const past = new Date(Date.now() - 60_000)
      utimesSync(dir, past, past)
      const look = openPublications(dir)
      const first = look()
      expect(look()).to.equal(first)
      rmSync(join(dir, 'one.json'))
      expect(look()).to.deep.equal([])
    }))

  it('are not those whose notes cannot be read, or lead elsewhere', () =>
    withFolder(({dir, show}) => {
      show('good', 'A-1', 'bytes')
      const note = readFileSync(join(dir, 'good.json'), 'utf8')
      writeFileSync(join(dir, 'cut.json'), note.slice(0, 20))
      writeFileSync(join(dir, 'other.json'), note)
      writeFileSync(join(dir, 'up.json'), note.replace('"good"', '"up"').replace('A-1.raw', '../x'))
      writeFileSync(join(dir, 'v2.json'), note.replace('.v1', '.v2'))
      writeFileSync(join(dir, 'notes.txt'), 'mine')
      expect(openPublications(dir)().map(({id}) => id)).to.deep.equal(['good'])
    }))

  it('have names that say what a file is for', () => {
    expect(parsePublicationName('one.json')).to.deep.equal({kind: 'note', name: 'one'})
    expect(parsePublicationName('a.json.json')).to.deep.equal({kind: 'note', name: 'a.json'})
    expect(parsePublicationName('A-1.raw')).to.deep.equal({kind: 'bytes', name: 'A-1'})
    expect(parsePublicationName('notes.txt')).to.equal(undefined)
  })
})
