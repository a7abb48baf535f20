/** The measured client of bench/download.ts: `node download-once.ts URL SHA256 STORE` makes one verified blob. */
import {openBlobs} from '../../src/core/blobs/blob-store.ts'
import {parseDigest} from '../../src/core/digest.ts'
import {downloadBlob} from '../../src/core/images/download.ts'
import {GiB} from '../../src/core/limits.ts'
import {openSource} from '../../src/core/sources/source.ts'

const [url = '', digest = '', storeDir = ''] = process.argv.slice(2)
const source = await openSource(url, {
  redirectsMax: 5,
  stallTimeoutMs: 30_000,
  connectTimeoutMs: 10_000,
  totalTimeoutMs: 600_000,
  maxBlobBytes: 64 * GiB,
  allowFile: false,
  allowPrivateRedirects: false,
  s3: {pathStyle: false, anonymous: true},
})
await downloadBlob({
  source,
  blobs: openBlobs(storeDir),
  digest: parseDigest(digest),
  url,
  isTakeover: false,
  signal: new AbortController().signal,
  maxBlobBytes: 64 * GiB,
  onProgress: () => undefined,
})
