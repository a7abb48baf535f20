/** Indexes the bytes that the extractor was given, and compares: both must refuse alike or make the same tree. */
import {existsSync, readdirSync, readFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {ImgstoreError} from '../../src/core/errors.ts'
import type {Profile, UnpackLimits} from '../../src/core/limits.ts'
import {indexArchive} from '../../src/core/unpack/erofs/index-archive.ts'
import type {IndexResult, UnpackResult} from '../../src/core/unpack/unpack.ts'
import {ErofsReader} from './erofs-reader.ts'
import {listTree, treeDifferences} from './tree-listing.ts'

export type Extracted = {
  root: string
  result: UnpackResult | undefined
  error: ImgstoreError | undefined
}

/** What depends on the directory's file system or on this host, not on the archive. */
const hostCodes = new Set(['no_space', 'permission_denied', 'io_failed'])

/** `sinceMs`: when extraction began; directories that no entry describes are hardly older (kernels stamp by the tick). */
export async function expectAgreement(
  job: {blobPath: string; profile: Profile; limits: UnpackLimits},
  {root, result, error}: Extracted,
  workDir: string,
  sinceMs: number,
): Promise<void> {
  const imagePath = join(workDir, 'image')
  const plainPath = join(workDir, 'plain')
  let indexed: IndexResult | undefined
  let refused: ImgstoreError | undefined
  try {
    indexed = await indexArchive({...job, digest: 'sha256:test', imagePath, plainPath})
  } catch (thrown) {
    if (!(thrown instanceof ImgstoreError)) throw thrown
    refused = thrown
  }
  if (error !== undefined && hostCodes.has(error.code)) return
  expect(refused?.message, 'what the index says').to.equal(error?.message)
  if (indexed === undefined || result === undefined) {
    expect(readdirSync(workDir), 'nothing is left of a refused index').to.deep.equal([])
    return
  }
  const {imageBytes, plainBytes, ...same} = indexed
  expect(same).to.deep.equal({...result, isConfined: false})
  const image = readFileSync(imagePath)
  expect(image.length).to.equal(imageBytes)
  expect(existsSync(plainPath)).to.equal(plainBytes !== undefined)
  const device = readFileSync(plainBytes === undefined ? job.blobPath : plainPath)
  // Where a test looked at a huge hole, reading all of it would prove nothing more.
  if (result.totalBytes > 1 << 28) return
  const made = new ErofsReader(image, [device]).list({xattrs: true})
  const extracted = listTree(root, {xattrs: true})
  for (const [path, line] of extracted) {
    const time = /mtime (\d+)/.exec(line)?.[1]
    if (!/^4/.test(line) || time === undefined || Number(BigInt(time) / 1_000_000n) < sinceMs - 20)
      continue
    const own = /mtime -?\d+/.exec(made.get(path) ?? '')?.[0]
    if (own !== undefined) extracted.set(path, line.replace(/mtime \d+/, own))
  }
  expect(treeDifferences(made, extracted), 'the index against the tree').to.deep.equal([])
}
