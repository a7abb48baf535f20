/** The battery by the process that users get, confined as they get it: some of each class, and all that is large. */
import {ImgstoreError} from '../../src/core/errors.ts'
import {unpack} from '../../src/core/unpack/unpack.ts'
import {attackSuite, type RunAttack} from '../contract/attack-suite.ts'
import {requires} from '../support/requires.ts'
import {listTree} from '../support/tree-listing.ts'

const unpackInProcess: RunAttack = async (blobPath, profile, limits, targetDir) => {
  try {
    const result = await unpack({blobPath, targetDir, profile, limits})
    return {
      tree: listTree(targetDir, {xattrs: true}),
      warnings: result.warnings.map(({code}) => code),
    }
  } catch (error) {
    if (!(error instanceof ImgstoreError)) throw error
    return {code: error.code, message: error.message}
  }
}

describe('the battery in the real process', function () {
  requires('root')
  // Starting a process takes far longer than most cases, so every fifth of a class stands for it.
  attackSuite('the unpacking process', unpackInProcess, {
    only: (attack, index) => attack.isLarge === true || index % 5 === 0,
    profiles: ['strict', 'image'],
  })
})
