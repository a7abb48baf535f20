import {GiB} from '../../src/core/limits.ts'
import type {OpenedSource, SourceOptions} from '../../src/core/sources/source.ts'

/** Options for tests: patient enough for a busy machine, quick enough for a test. */
export function sourceOptions(changes: Partial<SourceOptions> = {}): SourceOptions {
  return {
    redirectsMax: 5,
    stallTimeoutMs: 5_000,
    connectTimeoutMs: 5_000,
    totalTimeoutMs: 60_000,
    maxBlobBytes: GiB,
    allowFile: true,
    allowPrivateRedirects: false,
    s3: {pathStyle: true, anonymous: false},
    ...changes,
  }
}

/** The whole body in one buffer; the batches are copied as the contract demands. */
export async function readBody(opened: OpenedSource): Promise<Buffer> {
  const copies: Buffer[] = []
  for await (const batch of opened.body) copies.push(Buffer.concat(batch))
  return Buffer.concat(copies)
}

/** What a promise is rejected with; fails when it is not. */
export async function rejection(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise
  } catch (error) {
    return error
  }
  throw new Error('expected a rejection')
}
