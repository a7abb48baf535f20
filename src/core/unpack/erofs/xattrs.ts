/**
 * Extended attributes of a tree: each set and each attribute is kept once. In the image an attribute that several
 * inodes carry, or that is large, is written once and pointed to.
 */
import {createHash} from 'node:crypto'
import type {Xattr} from '../archive/entry.ts'
import {alignUp} from './format.ts'

const ENTRY_HEADER_BYTES = 4
const BODY_HEADER_BYTES = 12
/** The number of pointers is one byte. */
const POINTERS_MAX = 255
/** The size field has 16 bits. */
export const XATTR_VALUE_BYTES_MAX = 0xffff
/** An attribute of this size is no longer read along with its inode. */
const INLINE_BYTES_MAX = 256

/** What a name begins with, by the number that stands for it; longer ones first. */
const prefixes = [
  {prefix: 'system.posix_acl_default', index: 3, isWhole: true},
  {prefix: 'system.posix_acl_access', index: 2, isWhole: true},
  {prefix: 'security.', index: 6, isWhole: false},
  {prefix: 'trusted.', index: 4, isWhole: false},
  {prefix: 'user.', index: 1, isWhole: false},
]

/** The two parts of a name; undefined for one that EROFS cannot hold. */
export function splitXattrName(name: string): {index: number; rest: string} | undefined {
  for (const {prefix, index, isWhole} of prefixes) {
    if (isWhole ? name !== prefix : !name.startsWith(prefix) || name === prefix) continue
    return {index, rest: name.slice(prefix.length)}
  }
  return undefined
}

type Attribute = {bytes: Buffer; users: number}
/** Bytes behind an inode: a header, pointers to shared attributes, then the others. */
export type XattrBody = {sizeBytes: number; put(buffer: Buffer, at: number): void}

export class XattrSets {
  private readonly attributes: Attribute[] = []
  private readonly attributeByKey = new Map<string, number>()
  /** Numbers of attributes; set 0 is the empty one. */
  private readonly sets: number[][] = [[]]
  private readonly setByKey = new Map<string, number>()
  private readonly bodies = new Map<number, XattrBody>()
  /** Where each shared attribute is in its area. */
  private readonly sharedAt = new Map<number, number>()
  sharedBytes = 0

  /** The number of a set of attributes, each of which `splitXattrName` takes. */
  add(xattrs: readonly Xattr[]): number {
    return this.addSet(xattrs.map((xattr) => this.addAttribute(xattr)))
  }

  /** The number of the same set with one attribute more. */
  withOne(set: number, xattr: Xattr): number {
    const number = this.addAttribute(xattr)
    const numbers = this.sets[set] ?? []
    return numbers.includes(number) ? set : this.addSet([...numbers, number])
  }

  private addSet(numbers: number[]): number {
    const key = numbers.join()
    let set = this.setByKey.get(key)
    if (set === undefined) {
      set = this.sets.length
      this.sets.push(numbers)
      this.setByKey.set(key, set)
    }
    return set
  }

  private addAttribute({name, value}: Xattr): number {
    // A digest where the value is long, so that the keys stay small.
    const mark =
      value.length > 64
        ? createHash('sha256').update(value).digest('hex')
        : `=${value.toString('latin1')}`
    const key = `${name}\0${mark}`
    let number = this.attributeByKey.get(key)
    if (number === undefined) {
      number = this.attributes.length
      this.attributes.push({bytes: encode(name, value), users: 0})
      this.attributeByKey.set(key, number)
    }
    return number
  }

  /** Decides what is shared, once it is known how many inodes carry each set. */
  share(usersOfSet: Map<number, number>): void {
    this.bodies.clear()
    this.sharedAt.clear()
    this.sharedBytes = 0
    for (const attribute of this.attributes) attribute.users = 0
    for (const [set, users] of usersOfSet) {
      for (const number of this.sets[set] ?? []) this.attribute(number).users += users
    }
    for (const [number, {bytes, users}] of this.attributes.entries()) {
      if (users < 2 && (users === 0 || bytes.length <= INLINE_BYTES_MAX)) continue
      this.sharedAt.set(number, this.sharedBytes)
      this.sharedBytes += bytes.length
    }
  }

  /** What stands behind an inode that carries this set. */
  body(set: number): XattrBody {
    let body = this.bodies.get(set)
    if (body === undefined) {
      body = this.makeBody(this.sets[set] ?? [])
      this.bodies.set(set, body)
    }
    return body
  }

  private makeBody(numbers: readonly number[]): XattrBody {
    if (numbers.length === 0) return {sizeBytes: 0, put: () => undefined}
    const shared = numbers.filter((number) => this.sharedAt.has(number)).slice(0, POINTERS_MAX)
    const inline = numbers.filter((number) => !shared.includes(number))
    const parts = inline.map((number) => this.attribute(number).bytes)
    const header = Buffer.alloc(BODY_HEADER_BYTES + 4 * shared.length)
    header.writeUInt8(shared.length, 4)
    for (const [index, number] of shared.entries()) {
      header.writeUInt32LE((this.sharedAt.get(number) ?? 0) / 4, BODY_HEADER_BYTES + 4 * index)
    }
    const bytes = Buffer.concat([header, ...parts])
    return {sizeBytes: bytes.length, put: (buffer, at) => void bytes.copy(buffer, at)}
  }

  /** The area of shared attributes. */
  *sharedParts(): Generator<Buffer> {
    for (const number of this.sharedAt.keys()) yield this.attribute(number).bytes
  }

  private attribute(number: number): Attribute {
    const attribute = this.attributes[number]
    if (attribute === undefined) throw new RangeError('no such attribute')
    return attribute
  }
}

function encode(name: string, value: Buffer): Buffer {
  const split = splitXattrName(name)
  if (split === undefined || value.length > XATTR_VALUE_BYTES_MAX) {
    throw new RangeError('EROFS cannot hold this attribute')
  }
  const length = ENTRY_HEADER_BYTES + split.rest.length + value.length
  const bytes = Buffer.alloc(alignUp(length, 4))
  bytes.writeUInt8(split.rest.length, 0)
  bytes.writeUInt8(split.index, 1)
  bytes.writeUInt16LE(value.length, 2)
  bytes.write(split.rest, ENTRY_HEADER_BYTES, 'latin1')
  value.copy(bytes, ENTRY_HEADER_BYTES + split.rest.length)
  return bytes
}
