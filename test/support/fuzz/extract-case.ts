/** One damaged archive into a real directory beside a canary; what the bulk of the fuzzing cannot see. */
import {existsSync, mkdirSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {GiB, profiles, resolveLimits} from '../../../src/core/limits.ts'
import {kernelCalls, nodeCalls} from '../../../src/core/unpack/dir/calls.ts'
import {extract} from '../../../src/core/unpack/extract.ts'
import {unpack} from '../../../src/core/unpack/unpack.ts'
import {listCanary, makeCanary} from '../canary.ts'
import {listTree} from '../tree-listing.ts'
import {fuzzCanary, fuzzCase} from './cases.ts'
import {FuzzFault, outcomeOf} from './check.ts'
import {Random} from './random.ts'

export type ExtractWay = 'here' | 'child'

/**
 * Unpacks case number `seed` below `dir`, in this process or in the one that users get; returns what came of it.
 * The umask of the process must be 0. Throws when anything is wrong that is not a refusal.
 */
export async function checkExtraction(seed: number, dir: string, way: ExtractWay): Promise<string> {
  const {bytes} = fuzzCase(seed)
  const random = new Random(seed ^ 0x1b873593)
  const profile = random.pick(profiles)
  // Sizes that the archive only claims must not fill the disk of whoever runs this.
  const limits = resolveLimits(profile, {fileBytesMax: GiB, totalBytesMax: 2 * GiB})
  const targetDir = join(dir, 'img')
  const blobPath = join(dir, 'blob')
  writeFileSync(blobPath, bytes)
  makeCanary(dir)
  mkdirSync(targetDir, {mode: 0o700})
  const before = listCanary(dir)
  let outcome = 'done'
  try {
    const job = {blobPath, targetDir, profile, limits}
    if (way === 'child') await unpack(job)
    else await extract(job, {calls: random.oneIn(4) ? nodeCalls : kernelCalls})
  } catch (error) {
    outcome = outcomeOf(error)
  }
  if (JSON.stringify(listCanary(dir)) !== JSON.stringify(before)) {
    throw new FuzzFault('something beside the root was touched')
  }
  if (existsSync(fuzzCanary)) throw new FuzzFault(`${fuzzCanary} was made`)
  // Reading everything shows that what was made can be read, and holds no link to a file outside (by its link count).
  listTree(targetDir)
  for (const made of ['img', 'img-evil', 'blob', 'secret', 'link', 'empty']) {
    rmSync(join(dir, made), {recursive: true, force: true})
  }
  return outcome
}
