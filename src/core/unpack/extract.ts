/** One archive into one directory, in this process: blob → decompression → parser → policy → tree. */
import {spawnSync} from 'node:child_process'
import {closeSync, constants, fchmodSync, fchownSync, openSync, readdirSync} from 'node:fs'
import {assert} from '../assert.ts'
import {fail, fromSystemError} from '../errors.ts'
import type {ArchiveFormat} from './archive/format.ts'
import {ArchiveParser} from './archive/parser.ts'
import {linkRules, Policy} from './archive/policy.ts'
import {type Blob, findProgram} from './archive/source.ts'
import {chooseCalls, closeQuietly, type DirCalls} from './dir/calls.ts'
import {TreeWriter} from './dir/tree-writer.ts'
import {feedBlob, openBlob, tellFormat} from './feed.ts'
import type {UnpackJob, UnpackProgress, UnpackResult} from './protocol.ts'
import {Warnings} from './warnings.ts'

export type ExtractOptions = {
  onProgress?: (progress: UnpackProgress) => void
  /**
   * Called before the first byte of the archive is looked at with more than a glance: gives up every right that is not
   * needed any more. Returns whether that worked. Absent where the process has other work to do.
   */
  confine?: (needs: {rootFd: number; canExecute: boolean}) => boolean
  /** For tests: the calls to make the tree with. */
  calls?: DirCalls
}

/**
 * Unpacks `job.blobPath` into the empty directory `job.targetDir`.
 *
 * Shape: the caller's umask must be 0, or modes come out wrong.
 * Guarantees: nothing outside `targetDir` is touched; the tree is durable when this resolves; after an error what is in
 * `targetDir` is worthless.
 * Errors: unsafe_archive, bad_archive, source_not_image, compression_unsupported, no_space, io_failed, permission_denied.
 */
export async function extract(job: UnpackJob, options: ExtractOptions = {}): Promise<UnpackResult> {
  const calls = options.calls ?? chooseCalls()
  const blob = openBlob(job.blobPath)
  try {
    const format = tellFormat(blob)
    const rootFd = openRoot(job.targetDir)
    try {
      return await extractInto(job, blob, format, rootFd, calls, options)
    } finally {
      closeQuietly(rootFd)
    }
  } finally {
    closeSync(blob.fd)
  }
}

async function extractInto(
  job: UnpackJob,
  blob: Blob,
  format: ArchiveFormat,
  rootFd: number,
  calls: DirCalls,
  options: ExtractOptions,
): Promise<UnpackResult> {
  // Programs decompress xz and bzip2, and sync where koffi cannot.
  const canExecute = format === 'xz' || format === 'bzip2' || calls.more === undefined
  const isConfined = options.confine?.({rootFd, canExecute}) ?? false
  const warnings = new Warnings()
  const warn = warnings.add.bind(warnings)
  const policy = new Policy(job.profile, job.limits, {warn})
  const tree = new TreeWriter({
    calls,
    rootFd,
    rootPath: job.targetDir,
    linkRule: linkRules[job.profile],
    depthMax: job.limits.depthMax,
    // At most as many again as there may be entries; one path alone is always allowed.
    impliedMax: job.limits.filesMax + job.limits.depthMax,
    warn,
  })
  const parser = new ArchiveParser({
    begin: (entry) => tree.begin(policy.admit(entry)),
    write: tree.write.bind(tree),
    finish: tree.finish.bind(tree),
    warn,
  })
  try {
    await feedBlob(blob, format, parser, {
      ratioMax: job.limits.ratioMax,
      onChunk: (readBytes) => options.onProgress?.({readBytes, entries: policy.totals.entries}),
    })
    tree.seal()
    makeDurable(rootFd, job.targetDir, calls)
  } finally {
    tree.close()
  }
  const {entries, files, totalBytes} = policy.totals
  const {list, total} = warnings
  return {format, entries, files, totalBytes, isConfined, warnings: list, warningsTotal: total}
}

function openRoot(path: string): number {
  try {
    const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW
    const fd = openSync(path, flags)
    assert(
      readdirSync(`/proc/self/fd/${fd}`).length === 0,
      'an archive goes into an empty directory',
    )
    // With setgid or another group (and the mount option grpid), everything made inside would inherit the group.
    if (process.getuid?.() === 0) fchownSync(fd, 0, 0)
    fchmodSync(fd, 0o700)
    return fd
  } catch (error) {
    throw fromSystemErrorOrBug(error, path)
  }
}

function fromSystemErrorOrBug(error: unknown, path: string): Error {
  const isSystem = error instanceof Error && 'errno' in error
  return isSystem || !(error instanceof Error) ? fromSystemError(error, path, 'write') : error
}

function makeDurable(rootFd: number, path: string, calls: DirCalls): void {
  try {
    if (calls.more !== undefined) {
      calls.more.syncfs(rootFd)
      return
    }
  } catch (error) {
    throw fromSystemError(error, path, 'write')
  }
  const program = findProgram('sync')
  const run = program && spawnSync(program, ['-f', path], {env: {}, stdio: 'ignore'})
  if (!run || run.status !== 0) {
    throw fail('io_failed', {
      path,
      reason: 'neither koffi nor the program sync can make it durable',
    })
  }
}
