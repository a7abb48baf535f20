/** Runs inside a browser, in a page of another origin: reads an image as a streaming client does. */

const needed = ['etag', 'content-range', 'accept-ranges', 'content-length', 'content-encoding']

/** What a client asks first; the headers as a page of another origin sees them. */
export async function probe(url) {
  const head = await fetch(url, {method: 'HEAD'})
  const one = await fetch(url, {headers: {range: 'bytes=0-0'}})
  return {
    isolated: crossOriginIsolated,
    head: [head.status, head.headers.get('content-length'), head.headers.get('accept-ranges')],
    etag: head.headers.get('etag'),
    one: [one.status, one.headers.get('content-range'), (await one.bytes()).length],
    missing: needed.filter((name) => one.headers.get(name) === null),
  }
}

/** Reads one range, by If-Range too, which takes a preflight. */
export async function readRange(url, range, etag) {
  const headers = {range, ...(etag && {'if-range': etag})}
  const response = await fetch(url, {headers, cache: 'no-store'})
  return {
    status: response.status,
    range: response.headers.get('content-range'),
    cache: response.headers.get('cache-control'),
    bytes: (await response.bytes()).toBase64(),
  }
}

/** Reads the chunked form through, with no header that takes a preflight. */
export async function readChunked(manifestUrl) {
  const manifest = await (await fetch(manifestUrl)).json()
  const chunks = []
  for (let index = 0; index < manifest.chunkCount; index++) {
    const name = String(index).padStart(manifest.chunkIndexWidth, '0')
    const response = await fetch(new URL(`chunks/${name}.bin`, manifestUrl))
    if (!response.ok) throw new Error(`chunk ${index}: ${response.status}`)
    const bytes = await response.bytes()
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)).toHex()
    if (digest !== manifest.chunks[index].sha256) throw new Error(`chunk ${index}: ${digest}`)
    chunks.push(bytes.toBase64())
  }
  return chunks
}

/** Whether the page may embed it without CORS, which the resource policy decides. */
export async function canEmbed(url) {
  try {
    return (await fetch(url, {mode: 'no-cors', headers: {range: 'bytes=0-9'}})).type === 'opaque'
  } catch {
    return false
  }
}

/** Whether the page may read it, with cookies. */
export async function canReadWithCredentials(url) {
  try {
    return (await fetch(url, {credentials: 'include', headers: {range: 'bytes=0-9'}})).status
  } catch {
    return 'refused'
  }
}
