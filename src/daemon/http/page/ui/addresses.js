/** Addresses of images and the curl lines that use them. Nothing here knows a browser. */

/**
 * @param {string} base where the page is, with a slash at its end
 * @param {string} id
 */
export const imageUrl = (base, id) => new URL(`v1/images/${encodeURIComponent(id)}`, base).href

/**
 * The chunk manifest of a version; '' is the form without a version in its path.
 *
 * @param {string} base
 * @param {string} id
 * @param {string} version
 */
export function manifestUrl(base, id, version) {
  const middle = version === '' ? '' : `/${encodeURIComponent(version)}`
  return `${imageUrl(base, id)}/chunked${middle}/manifest.json`
}

/**
 * As one word of a shell.
 *
 * @param {string} word
 */
export const quote = (word) =>
  /^[\w@%+:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`

/**
 * The whole image into a file of its name.
 *
 * @param {string} url
 * @param {string} id
 */
export const curlWhole = (url, id) =>
  `curl -f -o ${quote(id.startsWith('-') ? `./${id}` : id)} ${quote(url)}`

/**
 * Its last 512 bytes, wherever they are.
 *
 * @param {string} url
 */
export const curlTail = (url) => `curl -sf -r -512 ${quote(url)} | xxd`

/**
 * A lease of a private image; the token is left to whoever has one.
 *
 * @param {string} url of the image
 */
export const curlLease = (url) =>
  `curl -f -X POST -H "Authorization: Bearer $TOKEN" ${quote(`${url}/lease`)}`
