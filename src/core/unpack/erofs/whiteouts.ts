/**
 * OCI whiteouts, and what overlayfs has for them: a character device 0:0 hides a name of the layers below, and an
 * attribute on a directory hides all that they have in it.
 *
 * Source: OCI image-spec v1.1 layer.md, "Whiteouts"; Linux, Documentation/filesystems/overlayfs.rst.
 */
import {splitPath} from '../archive/names.ts'
import {S_IFCHR} from './format.ts'
import type {ErofsTree} from './tree.ts'

const PREFIX = '.wh.'
const OPAQUE = '.wh..wh..opq'
const RESERVED_PREFIX = '.wh..wh.'

export const opaque = {name: 'trusted.overlay.opaque', value: Buffer.from('y')}
export const WHITEOUT_DEVICE = 0

export type Whiteout =
  | {kind: 'remove'; parent: string; base: string}
  | {kind: 'opaque'; parent: string}
  /** Something of AUFS that other tools leave in layers, or something in a directory of that kind. */
  | {kind: 'leftover'}
  | {kind: 'impossible'}

/** What a path says, if it is a whiteout. */
export function readWhiteout(path: string): Whiteout | undefined {
  // Names are rarely whiteouts, and this is asked of all.
  if (!path.includes(PREFIX)) return undefined
  const {parent, base} = splitPath(path)
  if (base === OPAQUE) return {kind: 'opaque', parent}
  if (path.split('/').some((part) => part.startsWith(RESERVED_PREFIX))) return {kind: 'leftover'}
  if (!base.startsWith(PREFIX)) return undefined
  const hidden = base.slice(PREFIX.length)
  if (hidden === '' || hidden === '.' || hidden === '..') return {kind: 'impossible'}
  return {kind: 'remove', parent, base: hidden}
}

/** Whether an inode is a whiteout as overlayfs knows it. Policy lets none through from an archive itself. */
export function isWhiteout(tree: ErofsTree, inode: number): boolean {
  return tree.typeOf(inode) === S_IFCHR && tree.inodes.value[inode] === WHITEOUT_DEVICE
}
