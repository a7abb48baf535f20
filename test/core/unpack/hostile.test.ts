/** The battery against extraction into a directory, with each of its two sets of system calls. */
import {spawnSync} from 'node:child_process'
import {ImgstoreError} from '../../../src/core/errors.ts'
import {type DirCalls, kernelCalls, nodeCalls} from '../../../src/core/unpack/dir/calls.ts'
import {extract} from '../../../src/core/unpack/extract.ts'
import {attackSuite, type RunAttack} from '../../contract/attack-suite.ts'
import {listTree} from '../../support/tree-listing.ts'

const extractWith =
  (calls: DirCalls): RunAttack =>
  async (blobPath, profile, limits, targetDir) => {
    const umask = process.umask(0)
    try {
      const result = await extract({blobPath, targetDir, profile, limits}, {calls})
      return {
        tree: listTree(targetDir, {xattrs: true}),
        warnings: result.warnings.map(({code}) => code),
      }
    } catch (error) {
      if (!(error instanceof ImgstoreError)) throw error
      return {code: error.code, message: error.message}
    } finally {
      process.umask(umask)
      // Read-only directories stop everyone but root from cleaning up.
      if (process.getuid?.() !== 0) spawnSync('chmod', ['-R', 'u+rwX', targetDir])
    }
  }

// The large ones are left to test/host, where minutes are at hand.
attackSuite('extraction with system calls', extractWith(kernelCalls), {
  only: ({isLarge}) => isLarge !== true,
})
attackSuite('extraction with plain Node', extractWith(nodeCalls), {
  only: ({isLarge, needsNodes}) => isLarge !== true && needsNodes !== true,
  profiles: ['image'],
})
