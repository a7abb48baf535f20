/** Looking at first bytes: a web page gets a better message than "wrong checksum"; what is compressed has a plain tar. */

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

/** Whether content that begins with these four bytes is gzip, or zstd, which a skippable frame may precede. */
export function isCompressed(head: Buffer): boolean {
  if (head.length < 4) return false
  const magic = head.readUInt32LE(0)
  return (
    (magic & 0xffff) === 0x8b1f ||
    magic === 0xfd2f_b528 ||
    (magic & 0xffff_fff0) >>> 0 === 0x184d_2a50
  )
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
