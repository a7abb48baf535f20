import {expect} from 'chai'
import fc from 'fast-check'
import {newUlid, parseImageName, type RunId} from '../../src/core/ids.ts'
import {layoutOf, mountSource, parseTreeId, treeIdOf} from '../../src/core/layout.ts'

describe('the layout of a store', () => {
  const layout = layoutOf('/srv/a store, with: odd\\name')
  const name = parseImageName('debian-12')

  it('is the one that was promised', () => {
    const base = '/srv/a store, with: odd\\name'
    expect(layout.blobs).to.equal(`${base}/blobs`)
    expect(layout.rootfs(name)).to.equal(`${base}/images/debian-12/rootfs`)
    expect(layout.upper(name)).to.equal(`${base}/overlays/debian-12/upper`)
    expect(layout.work(name)).to.equal(`${base}/overlays/debian-12/work`)
    expect(layout.mountPoint(name)).to.equal(`${base}/active/debian-12`)
    expect(layout.treeNote(name)).to.equal(`${base}/images/debian-12/tree.json`)
    expect(mountSource(name)).to.equal('imgstore:debian-12')
  })

  it('tells a tree id from every other name', () => {
    fc.assert(
      fc.property(fc.integer({min: 0, max: 1e12}), fc.integer({min: 0}), (time, epoch) => {
        const run = newUlid(time) as RunId
        expect(parseTreeId(treeIdOf(run, epoch))).to.deep.equal({run, epoch})
      }),
    )
    const run = newUlid(1)
    for (const other of [
      '',
      run,
      `${run}-`,
      `${run}-x`,
      `${run}-1/..`,
      `old-${run}`,
      `${run.slice(1)}-1`,
    ])
      expect(parseTreeId(other), other).to.equal(undefined)
  })
})
