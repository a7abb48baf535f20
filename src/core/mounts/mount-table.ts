/** The kernel's table of mounts as this process sees it: /proc/self/mountinfo, read strictly. */
import {readFileSync, realpathSync} from 'node:fs'
import {basename, dirname, join, resolve} from 'node:path'
import {fail} from '../errors.ts'

/** One mount. Paths are unescaped; option lists are as the kernel prints them, unescaped. */
export type MountEntry = {
  mountId: number
  parentId: number
  major: number
  minor: number
  /** The directory of the file system that is mounted; ends in `//deleted` when it was removed since. */
  root: string
  mountPoint: string
  /** Options of this mount (`rw`, `nosuid` …). */
  options: string[]
  /** `shared:N`, `master:N` …; empty for a private mount. */
  propagation: string[]
  fsType: string
  source: string
  /** Options of the file system (`lowerdir=…`). */
  superOptions: string[]
}

/** Undoes the kernel's escaping: a backslash and three octal digits stand for one byte. */
export function unescapeOctal(field: Uint8Array): string {
  const bytes: number[] = []
  for (let i = 0; i < field.length; i++) {
    const byte = field[i] ?? 0
    const digits = byte === backslash ? octal(field.subarray(i + 1, i + 4)) : undefined
    if (digits === undefined) bytes.push(byte)
    else {
      bytes.push(digits)
      i += 3
    }
  }
  return Buffer.from(bytes).toString('utf8')
}

const backslash = 0x5c

function octal(digits: Uint8Array): number | undefined {
  if (digits.length !== 3) return undefined
  let value = 0
  for (const digit of digits) {
    if (digit < 0x30 || digit > 0x37) return undefined
    value = value * 8 + (digit - 0x30)
  }
  return value > 255 ? undefined : value
}

/**
 * Parses the text of a mountinfo file.
 *
 * Errors: host_cannot_mount for a line that does not have the documented form.
 * Source: Linux, Documentation/filesystems/proc.rst, section 3.5.
 */
export function parseMountInfo(text: Uint8Array): MountEntry[] {
  // Split as latin1 so that a byte is a character: names in the table need not be UTF-8.
  return Buffer.from(text)
    .toString('latin1')
    .split('\n')
    .filter((line) => line !== '')
    .map(parseLine)
}

function parseLine(line: string): MountEntry {
  const fields = line.split(' ')
  const separator = fields.indexOf('-', 6)
  const [mountId, parentId, device, root, mountPoint, options] = fields
  // Nothing but a file system without a source leaves a field empty, and only the last three can be it.
  const [fsType, source, superOptions, ...rest] = fields.slice(separator + 1)
  const numbers = /^(\d+):(\d+)$/.exec(device ?? '')
  if (
    separator < 0 ||
    rest.length > 0 ||
    !/^\d+$/.test(mountId ?? '') ||
    !/^-?\d+$/.test(parentId ?? '') ||
    numbers === null ||
    root === undefined ||
    !mountPoint?.startsWith('/') ||
    options === undefined ||
    fsType === undefined ||
    source === undefined ||
    superOptions === undefined
  ) {
    throw fail('host_cannot_mount', {
      reason: `the mount table has a line that cannot be read: ${line.slice(0, 200)}`,
    })
  }
  const clear = (field: string): string => unescapeOctal(Buffer.from(field, 'latin1'))
  return {
    mountId: Number(mountId),
    parentId: Number(parentId),
    major: Number(numbers[1]),
    minor: Number(numbers[2]),
    root: clear(root),
    mountPoint: clear(mountPoint),
    options: options.split(',').map(clear),
    propagation: fields.slice(6, separator),
    fsType: clear(fsType),
    source: clear(source),
    // Split first: a comma inside a value is printed as \054, one between options as itself. (An overlay
    // mounted from an option string keeps its escapes: `\,` is printed as \134\054.)
    superOptions: superOptions.split(',').map(clear),
  }
}

/**
 * All mounts of this process's mount namespace, oldest first within one place.
 *
 * Errors: host_cannot_mount when /proc is missing or unreadable.
 */
export function readMountTable(): MountEntry[] {
  let text: Buffer
  try {
    text = readFileSync('/proc/self/mountinfo')
  } catch (error) {
    throw fail('host_cannot_mount', {reason: '/proc/self/mountinfo cannot be read'}, {cause: error})
  }
  return parseMountInfo(text)
}

/**
 * A path as the mount table spells it: absolute, symbolic links above the last component resolved. The
 * last component itself is not touched, so a mount that hangs cannot hang this.
 */
export function tablePath(path: string): string {
  const absolute = resolve(path)
  try {
    return join(realpathSync(dirname(absolute)), basename(absolute))
  } catch {
    return absolute
  }
}

/** Every mount at exactly this place, the lowest first: the last one is what a path sees. */
export function findMounts(mountPoint: string, table = readMountTable()): MountEntry[] {
  const place = tablePath(mountPoint)
  const here = table.filter((entry) => entry.mountPoint === place)
  // A mount on top of another has it as its parent; the table itself is not in that order.
  const parents = new Map(here.map((entry) => [entry.mountId, entry.parentId]))
  const depth = (id: number): number => {
    const parent = parents.get(id)
    return parent === undefined || parent === id ? 0 : 1 + depth(parent)
  }
  return here.sort((a, b) => depth(a.mountId) - depth(b.mountId))
}

/** Every mount strictly below a directory, in the order of the table. */
export function mountsBelow(dir: string, table = readMountTable()): MountEntry[] {
  const place = tablePath(dir)
  const prefix = place.endsWith('/') ? place : `${place}/`
  return table.filter((entry) => entry.mountPoint.startsWith(prefix) && entry.mountPoint !== prefix)
}

/** The mount that holds a path: of the deepest mount points above it, the one mounted last. */
export function mountOf(path: string, table = readMountTable()): MountEntry | undefined {
  let found: MountEntry | undefined
  for (const entry of table) {
    const holds =
      entry.mountPoint === path ||
      path.startsWith(entry.mountPoint === '/' ? '/' : `${entry.mountPoint}/`)
    if (holds && (found === undefined || entry.mountPoint.length >= found.mountPoint.length))
      found = entry
  }
  return found
}
