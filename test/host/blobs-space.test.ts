import {execFileSync} from 'node:child_process'
import {mkdtempSync, readdirSync, rmdirSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {expect} from 'chai'
import {openBlobs} from '../../src/core/blobs/blob-store.ts'
import {downloadBlob} from '../../src/core/images/download.ts'
import {GiB, MiB} from '../../src/core/limits.ts'
import {openSource} from '../../src/core/sources/source.ts'
import {randomContent, withFakeSource} from '../support/fake-source.ts'
import {requires} from '../support/requires.ts'
import {rejection, sourceOptions} from '../support/source-options.ts'

const {signal} = new AbortController()

/** Runs `body` with a file system of its own of so many bytes. */
async function withSmallDisk(options: string, body: (dir: string) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
  execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', dir])
  try {
    await body(dir)
  } finally {
    execFileSync('umount', [dir])
    rmdirSync(dir)
  }
}

describe('a download onto a full disk', function () {
  requires('root')

  for (const [what, options] of [
    ['no bytes', 'size=2m'],
    ['no inodes', 'nr_inodes=3'],
  ] as const) {
    it(`says no_space when there are ${what} left, and leaves nothing`, async () => {
      const content = randomContent(5 * MiB + 3)
      await withFakeSource(content, async (peer) => {
        await withSmallDisk(options, async (dir) => {
          const source = await openSource(peer.url, sourceOptions())
          const attempt = downloadBlob({
            source,
            blobs: openBlobs(dir),
            digest: peer.digest,
            url: peer.url,
            isTakeover: false,
            signal,
            maxBlobBytes: GiB,
            onProgress: () => undefined,
          })
          const error = await rejection(attempt)
          expect(error).to.include({code: 'no_space', exit: 14})
          expect(readdirSync(join(dir, 'blobs'))).to.eql([])
        })
      })
    })
  }
})
