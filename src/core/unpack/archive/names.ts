/**
 * Names of an archive as paths below the root. Names are byte strings; a path is components joined by single
 * slashes, without `.`, `..` or empty ones; the root is the empty string.
 */
import {archiveBounds} from '../../limits.ts'

export type NormalName =
  | {isSafe: true; path: string; wasAbsolute: boolean}
  | {isSafe: false; rule: string; reason: 'absolute' | 'other'}

const unsafe = (rule: string): NormalName => ({isSafe: false, rule, reason: 'other'})

/** Reads a name as a path. `allowAbsolute` takes leading slashes as the root, as GNU tar does; without it they are unsafe. */
export function normalName(name: string, options: {allowAbsolute: boolean}): NormalName {
  if (name === '') return unsafe('has an empty name')
  if (name.length > archiveBounds.pathBytesMax) {
    return unsafe(`has a name of more than ${archiveBounds.pathBytesMax} bytes`)
  }
  if (name.includes('\0')) return unsafe('has a NUL in its name')
  const wasAbsolute = name.startsWith('/')
  if (wasAbsolute && !options.allowAbsolute) {
    return {isSafe: false, rule: 'has an absolute name', reason: 'absolute'}
  }
  // Most names are paths as they stand, or behind `./`, which is how tar writes what it was given as `.`.
  if (isNormal(name, 0)) return {isSafe: true, path: name, wasAbsolute: false}
  if (name.startsWith('./') && isNormal(name, 2)) {
    return {isSafe: true, path: name.slice(2), wasAbsolute: false}
  }
  const parts: string[] = []
  for (const part of name.split('/')) {
    if (part === '' || part === '.') continue
    if (part === '..') return unsafe('has ".." in its name')
    if (part.length > archiveBounds.componentBytesMax) {
      return unsafe(`has a name component of more than ${archiveBounds.componentBytesMax} bytes`)
    }
    parts.push(part)
  }
  return {isSafe: true, path: parts.join('/'), wasAbsolute}
}

/** Whether a name is a path as it stands from `start` on, told in one pass. */
function isNormal(name: string, start: number): boolean {
  let componentStart = start
  for (let at = start; at <= name.length; at++) {
    if (at < name.length && name.charCodeAt(at) !== 0x2f) continue
    const length = at - componentStart
    if (length === 0 || length > archiveBounds.componentBytesMax) return false
    if (length <= 2 && name.charCodeAt(componentStart) === 0x2e) {
      if (length === 1 || name.charCodeAt(componentStart + 1) === 0x2e) return false
    }
    componentStart = at + 1
  }
  return true
}

/** Components below the root. */
export function depthOf(path: string): number {
  if (path === '') return 0
  let depth = 1
  for (let at = path.indexOf('/'); at !== -1; at = path.indexOf('/', at + 1)) depth++
  return depth
}

/** The directory that holds `path` ('' for the root) and the last component. */
export function splitPath(path: string): {parent: string; base: string} {
  const slash = path.lastIndexOf('/')
  return slash === -1
    ? {parent: '', base: path}
    : {parent: path.slice(0, slash), base: path.slice(slash + 1)}
}

/** Whether a link at `path` with this target leaves the tree, by its text alone; the links it passes are not looked at. */
export function leavesTree(path: string, target: string): boolean {
  if (target.startsWith('/')) return true
  let depth = depthOf(path) - 1
  for (const part of target.split('/')) {
    if (part === '..') depth--
    else if (part !== '' && part !== '.') depth++
    if (depth < 0) return true
  }
  return false
}
