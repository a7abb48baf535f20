import {mkdtempSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'

/** Runs `body` with a fresh directory that is gone afterwards, whatever happens. */
export async function withTempDir<T>(body: (dir: string) => Promise<T> | T): Promise<T> {
  const dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
  try {
    return await body(dir)
  } finally {
    rmSync(dir, {recursive: true, force: true})
  }
}
