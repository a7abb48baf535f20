/** What the parser hands on: one entry of an archive, as the archive says it, not yet judged. */

export type EntryKind =
  'file' | 'directory' | 'symlink' | 'hardlink' | 'character' | 'block' | 'fifo'

/** A run of data inside a sparse file; what no segment covers is a hole. */
export type Segment = {offset: number; length: number}

export type Xattr = {name: string; value: Buffer}

/** Names and targets are byte strings: each character is one byte, because tar and Linux names are bytes. */
export type Entry = {
  kind: EntryKind
  name: string
  linkTarget: string
  mode: number
  uid: number
  gid: number
  mtimeSeconds: number
  mtimeNanoseconds: number
  /** Size of the file when it is written out, holes included; 0 for what is not a file. */
  sizeBytes: number
  /** Bytes of it that the archive holds. */
  storedBytes: number
  /** In ascending order, without overlap; undefined for a file without holes. */
  segments: Segment[] | undefined
  deviceMajor: number
  deviceMinor: number
  xattrs: readonly Xattr[]
  /** Where its header begins in the uncompressed archive. */
  offset: number
}

export const noXattrs: readonly Xattr[] = []

/** A byte string for people: UTF-8 where it is that, otherwise with `\xNN` for each byte that is not ASCII. */
export function displayName(bytes: string): string {
  let isAscii = true
  for (let i = 0; i < bytes.length; i++) if (bytes.charCodeAt(i) > 127) isAscii = false
  if (isAscii) return bytes
  const buffer = Buffer.from(bytes, 'latin1')
  const text = buffer.toString('utf8')
  if (Buffer.from(text, 'utf8').equals(buffer)) return text
  return bytes.replaceAll(
    /[\x80-\xff]/g,
    (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`,
  )
}
