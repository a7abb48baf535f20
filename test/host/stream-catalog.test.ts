import {spawnSync} from 'node:child_process'
import {writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {silentLogger} from '../../src/core/log.ts'
import {openStreams} from '../../src/core/streams/streams.ts'
import {requires} from '../support/requires.ts'
import {withTempDir} from '../support/temp-dir.ts'

describe('a catalog on a file system with coarse times', () => {
  requires('root')

  /** Older kernels stamp files of any kind once a tick; on newer ones this old kind of file system still does. */
  function withRamfs(body: (dir: string) => void): Promise<void> {
    return withTempDir((dir) => {
      expect(spawnSync('mount', ['-t', 'ramfs', 'ramfs', dir]).status).to.equal(0)
      try {
        body(dir)
      } finally {
        expect(spawnSync('umount', [dir]).status).to.equal(0)
      }
    })
  }

  it('is seen to change though neither its times nor its size do', () =>
    withRamfs((root) => {
      writeFileSync(join(root, 'a'), '')
      const streams = openStreams({imagesRoot: root, requireManifest: false, log: silentLogger})
      try {
        for (let i = 100; i < 600; i++) {
          const images = [{id: `${i}`, file: 'a', name: 'A'}]
          writeFileSync(join(root, 'manifest.json'), JSON.stringify({images}))
          expect(streams.list().images.map(({id}) => id)).to.deep.equal([`${i}`])
        }
      } finally {
        streams.close()
      }
    }))
})
