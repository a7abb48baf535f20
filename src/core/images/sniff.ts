/** Telling a web page from an archive, for a better message than "wrong checksum". */

const archiveMagics = [
  [0, '1f8b'],
  [0, '28b52ffd'],
  [0, 'fd377a585a00'],
  [0, '425a68'],
  [0, '04224d18'],
  [257, '7573746172'],
] as const

function looksLikeArchive(head: Buffer): boolean {
  return archiveMagics.some(([offset, hex]) => {
    const magic = Buffer.from(hex, 'hex')
    return head.subarray(offset, offset + magic.length).equals(magic)
  })
}

/** Whether content that begins with `head` is an HTML page: by its bytes, or by its type when they are at least text. */
export function looksLikeHtml(head: Buffer, contentType?: string): boolean {
  if (head.length === 0 || looksLikeArchive(head)) return false
  const text = head
    .toString('utf8')
    .replace(/^\uFEFF/, '')
    .trimStart()
  if (
    /^(<!doctype\s+html|<html[\s>]|<head[\s>]|<!--[\s\S]{0,512}?-->\s*(<!doctype\s+html|<html))/i.test(
      text,
    )
  )
    return true
  return /^(text\/html|application\/xhtml\+xml)/i.test(contentType ?? '') && !head.includes(0)
}
