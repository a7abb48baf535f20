import {chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {newUlid, type ImageName, type RunId} from '../../../src/core/ids.ts'
import {
  discardStaged,
  noteTree,
  publishTree,
  readTreeNote,
  retireImage,
  stageTree,
} from '../../../src/core/images/trees.ts'
import {layoutOf, parseTreeId, treeIdOf, type Layout} from '../../../src/core/layout.ts'
import {withTempDir} from '../../support/temp-dir.ts'

const name = 'image' as ImageName

async function withLayout(body: (layout: Layout) => Promise<void> | void): Promise<void> {
  await withTempDir(async (dir) => await body(layoutOf(join(dir, 'store'))))
}

/** A whole staged tree with one file. */
async function staged(layout: Layout, text: string, run = newUlid(1) as RunId): Promise<string> {
  const treeId = treeIdOf(run, 1)
  const rootfs = await stageTree(layout, {run, epoch: 1})
  writeFileSync(join(rootfs, 'file'), text)
  noteTree(layout, {treeId, digest: 'd', profile: 'strict', entries: 1})
  return treeId
}

const published = (layout: Layout): string =>
  readFileSync(join(layout.rootfs(name), 'file'), 'utf8')

describe('trees', () => {
  it('are published by a rename, and again without any change', async () => {
    await withLayout(async (layout) => {
      const treeId = await staged(layout, 'one')
      expect(publishTree(layout, name, treeId, 1)).to.equal(undefined)
      expect(published(layout)).to.equal('one')
      expect(readTreeNote(layout, name)?.treeId).to.equal(treeId)
      expect(publishTree(layout, name, treeId, 1)).to.equal(undefined)
      expect(published(layout)).to.equal('one')
      expect(readdirSync(layout.staging)).to.deep.equal([])
    })
  })

  it('retire the tree that they replace, to be deleted later', async () => {
    await withLayout(async (layout) => {
      publishTree(layout, name, await staged(layout, 'one'), 1)
      const replaced = publishTree(layout, name, await staged(layout, 'two'), 1)
      expect(published(layout)).to.equal('two')
      expect(replaced).to.match(/\/staging\/old-[0-9A-Z]{26}$/)
      expect(readFileSync(join(replaced ?? '', 'rootfs/file'), 'utf8')).to.equal('one')
    })
  })

  it('are not published when they are gone or not whole, and what is there stays', async () => {
    await withLayout(async (layout) => {
      publishTree(layout, name, await staged(layout, 'one'), 1)
      const run = newUlid(1) as RunId
      await stageTree(layout, {run, epoch: 1})
      for (const treeId of [treeIdOf(run, 1), treeIdOf(run, 2)])
        expect(() => publishTree(layout, name, treeId, 1))
          .to.throw('the unpacked tree is gone')
          .with.property('code', 'io_failed')
      expect(published(layout)).to.equal('one')
    })
  })

  it('of earlier claims of a run are set aside when it is staged anew, those of other runs are not', async () => {
    await withLayout(async (layout) => {
      const run = newUlid(1) as RunId
      await staged(layout, 'one', run)
      const other = await staged(layout, 'other')
      await stageTree(layout, {run, epoch: 2})
      expect(readdirSync(layout.staging).sort()).to.deep.equal([treeIdOf(run, 2), other].sort())
      await discardStaged(layout, {run, epoch: 1})
      expect(readdirSync(layout.staging).sort(), 'a later claim is at work').to.deep.equal(
        [treeIdOf(run, 2), other].sort(),
      )
      await discardStaged(layout, {run, epoch: 2})
      expect(readdirSync(layout.staging)).to.deep.equal([other])
    })
  })

  it('of earlier claims may be set aside by several later ones at once', async () => {
    await withLayout(async (layout) => {
      const run = newUlid(1) as RunId
      for (let epoch = 1; epoch <= 20; epoch++)
        mkdirSync(layout.stagedTree(treeIdOf(run, epoch)), {recursive: true})
      const epochs = [21, 22, 23, 24]
      const staging = epochs.map((epoch) => stageTree(layout, {run, epoch}))
      const last = (await Promise.allSettled(staging)).at(-1)
      expect(last, 'the latest has nobody to yield to').to.include({status: 'fulfilled'})
      const earlier = readdirSync(layout.staging).filter(
        (name) => (parseTreeId(name)?.epoch ?? 0) <= 20,
      )
      expect(earlier).to.deep.equal([])
    })
  })

  it('of later claims are left alone by an owner that slept past its lease', async () => {
    await withLayout(async (layout) => {
      const run = newUlid(1) as RunId
      await stageTree(layout, {run, epoch: 2})
      await stageTree(layout, {run, epoch: 1})
      expect(readdirSync(layout.staging).sort()).to.deep.equal([treeIdOf(run, 1), treeIdOf(run, 2)])
      await discardStaged(layout, {run, epoch: 1})
      expect(readdirSync(layout.staging)).to.deep.equal([treeIdOf(run, 2)])
    })
  })

  it('are deleted with the directories that nobody may read or write', async () => {
    await withLayout(async (layout) => {
      const run = newUlid(1) as RunId
      const rootfs = await stageTree(layout, {run, epoch: 1})
      mkdirSync(join(rootfs, 'closed/inner'), {recursive: true})
      writeFileSync(join(rootfs, 'closed/inner/file'), '')
      chmodSync(join(rootfs, 'closed/inner'), 0)
      chmodSync(join(rootfs, 'closed'), 0o500)
      try {
        await discardStaged(layout, {run, epoch: 1})
        expect(readdirSync(layout.staging)).to.deep.equal([])
      } finally {
        if (existsSync(join(rootfs, 'closed'))) {
          chmodSync(join(rootfs, 'closed'), 0o700)
          chmodSync(join(rootfs, 'closed/inner'), 0o700)
        }
      }
    })
  })

  it('have no note when it cannot be read', async () => {
    await withLayout((layout) => {
      expect(readTreeNote(layout, name)).to.equal(undefined)
      mkdirSync(layout.image(name), {recursive: true})
      for (const text of ['', '{', 'null', '{"treeId": 7}', '[]']) {
        writeFileSync(layout.treeNote(name), text)
        expect(readTreeNote(layout, name), text).to.equal(undefined)
      }
    })
  })

  it('leave with their overlay and mount point, and leaving twice is fine', async () => {
    await withLayout(async (layout) => {
      publishTree(layout, name, await staged(layout, 'one'), 1)
      for (const dir of [layout.upper(name), layout.work(name), layout.mountPoint(name)])
        mkdirSync(dir, {recursive: true})
      expect(retireImage(layout, name, 1)).to.have.lengthOf(2)
      for (const place of [layout.image(name), layout.overlay(name), layout.mountPoint(name)])
        expect(existsSync(place)).to.equal(false)
      expect(retireImage(layout, name, 1)).to.deep.equal([])
    })
  })
})
