/** Unpacks bytes into a fresh directory beside a canary that nothing may touch; as root it indexes them too. */
import {mkdirSync, writeFileSync} from 'node:fs'
import {spawnSync} from 'node:child_process'
import {join} from 'node:path'
import {expect} from 'chai'
import {ImgstoreError} from '../../src/core/errors.ts'
import {type LimitOverrides, type Profile, resolveLimits} from '../../src/core/limits.ts'
import {type DirCalls, kernelCalls} from '../../src/core/unpack/dir/calls.ts'
import {extract} from '../../src/core/unpack/extract.ts'
import type {UnpackResult} from '../../src/core/unpack/unpack.ts'
import {listCanary, makeCanary} from './canary.ts'
import {expectAgreement} from './erofs-agreement.ts'
import {withTempDir} from './temp-dir.ts'

export type UnpackCase = {
  bytes: Buffer
  profile?: Profile
  limits?: LimitOverrides
  calls?: DirCalls
}

export type Unpacked = {
  /** The root of the tree, to be looked at in `check` only. */
  root: string
  result: UnpackResult | undefined
  error: ImgstoreError | undefined
}

/**
 * Runs one case in this process and hands what came of it to `check`. Fails when anything beside the root was
 * touched: content, mode, owner, times, links; and, as root, when the index of the same bytes says something else.
 */
export async function withUnpacked(
  options: UnpackCase,
  check: (unpacked: Unpacked) => void | Promise<void>,
): Promise<void> {
  await withTempDir(async (dir) => {
    const root = join(dir, 'img')
    const blobPath = join(dir, 'blob')
    writeFileSync(blobPath, options.bytes)
    makeCanary(dir)
    mkdirSync(root, {mode: 0o700})
    const before = listCanary(dir)
    const profile = options.profile ?? 'image'
    let result: UnpackResult | undefined
    let error: ImgstoreError | undefined
    const umask = process.umask(0)
    const limits = resolveLimits(profile, options.limits ?? {})
    // Kernels stamp by the tick, up to some milliseconds behind the clock.
    const startMs = Date.now() - 50
    try {
      result = await extract(
        {blobPath, targetDir: root, profile, limits},
        options.calls === undefined ? {} : {calls: options.calls},
      )
    } catch (thrown) {
      if (!(thrown instanceof ImgstoreError)) throw thrown
      error = thrown
    } finally {
      process.umask(umask)
    }
    expect(listCanary(dir), 'the canary beside the root').to.deep.equal(before)
    // Only root makes owners and devices, and only system calls keep everything.
    if (process.getuid?.() === 0 && (options.calls ?? kernelCalls) === kernelCalls) {
      const job = {blobPath, profile, limits}
      await withTempDir((work) => expectAgreement(job, {root, result, error}, work, startMs))
    }
    try {
      await check({root, result, error})
    } finally {
      // Read-only directories stop everyone but root from cleaning up.
      if (process.getuid?.() !== 0) spawnSync('chmod', ['-R', 'u+rwX', root])
    }
  })
}
