/**
 * The id by which a database that many hosts share knows this one. Made once, kept in the store.
 *
 * The danger: a host that loses its id is a new one to the database. Its images are then nobody's, and `cleanup` would
 * take their trees, and what was written into them, for leftovers. So a store that is not new is asked first who it was.
 */
import {linkSync, readdirSync, renameSync, rmSync, writeFileSync} from 'node:fs'
import {dirname} from 'node:path'
import {listNodes, nodesOfTrees, type NodeRow} from '../db/owners.ts'
import type {Query} from '../db/query.ts'
import {fail, fromSystemError, ImgstoreError, systemCode} from '../errors.ts'
import {isNodeIdText, newUlid, parseImageName, type NodeId} from '../ids.ts'
import type {Layout} from '../layout.ts'
import {readSmallFile} from '../small-file.ts'
import {syncDirectoryNow} from '../syscalls/durable.ts'
import {readTreeNote} from './trees.ts'
import {makeDirectories} from '../syscalls/make-directories.ts'

/**
 * Writes an id, or makes one. Many processes may do so at once: the first one's stays.
 *
 * Errors: store_invalid, permission_denied, no_space, io_failed.
 */
export function ensureNodeId(file: string, now: number, id: string = newUlid(now)): NodeId {
  const found = readNodeId(file)
  if (found !== undefined) return found
  const draft = `${file}.${process.pid}.${newUlid(now)}`
  try {
    makeDirectories(dirname(file))
    writeFileSync(draft, `${id}\n`, {flush: true})
    try {
      linkSync(draft, file)
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw error
    }
    // Before any row names it: with another id, this host would know nothing of its images after a power cut.
    syncDirectoryNow(dirname(file))
  } catch (error) {
    throw fromSystemError(error, file, 'write')
  } finally {
    rmSync(draft, {force: true})
  }
  const made = readNodeId(file)
  if (made === undefined)
    throw fail('store_invalid', {path: file, reason: 'the id of this host cannot be read back'})
  return made
}

/** Puts another id in the place of what is there. */
export function replaceNodeId(file: string, now: number, id: NodeId): void {
  const draft = `${file}.${process.pid}.${newUlid(now)}`
  try {
    writeFileSync(draft, `${id}\n`, {flush: true})
    renameSync(draft, file)
    syncDirectoryNow(dirname(file))
  } catch (error) {
    rmSync(draft, {force: true})
    throw fromSystemError(error, file, 'write')
  }
}

export function readNodeId(file: string): NodeId | undefined {
  let text: string
  try {
    text = readSmallFile(file).trim()
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined
    throw fromSystemError(error, file, 'read')
  }
  if (!isNodeIdText(text)) {
    const reason =
      'it does not hold the id of a host; `imgstore doctor --repair` finds out what it was'
    throw fail('store_invalid', {path: file, reason})
  }
  return text as NodeId
}

/** What is wrong with a store's id, and which one is right. */
export type NodeTrouble = {was: 'gone' | 'damaged' | 'another'; node?: NodeId; why: string}

/**
 * Looks at a store's id; undefined when there is nothing wrong with it. `isThorough` also looks whether a sound one is
 * another host's, as when it was lost and made anew.
 *
 * Errors: store_invalid when it is gone and several hosts of the database may be this one; permission_denied, io_failed.
 */
export async function examineNodeId(
  q: Query,
  layout: Layout,
  hostname: string,
  options: {isThorough: boolean},
): Promise<NodeTrouble | undefined> {
  let was: NodeTrouble['was'] = 'gone'
  try {
    const known = readNodeId(layout.nodeFile)
    if (known !== undefined) {
      if (!options.isThorough) return undefined
      return await examineKnown(q, layout, known)
    }
  } catch (error) {
    if (!(error instanceof ImgstoreError) || error.code !== 'store_invalid') throw error
    was = 'damaged'
  }
  if (!hasContent(layout)) return {was, why: 'nothing is in the store yet'}
  const byTrees = await nodeOfTrees(q, layout)
  if (byTrees !== undefined) return {was, node: byTrees, why: 'the trees of the store are its'}
  const nodes = await listNodes(q)
  const here = nodes.filter((node) => node.hostname === hostname)
  const candidates = here.length > 0 ? here : nodes
  const [first] = candidates
  if (first === undefined) return {was, why: 'the database knows no host'}
  if (candidates.length > 1) throw severalNodes(layout, candidates)
  const why =
    here.length > 0 ? 'it is the one with this name in the database' : 'the database has no other'
  return {was, node: first.id, why}
}

/** The one host of the database that the trees of a store are of. */
export async function nodeOfTrees(q: Query, layout: Layout): Promise<NodeId | undefined> {
  const [only, ...more] = await nodesOfTrees(q, treesOf(layout))
  return more.length === 0 ? only : undefined
}

/** A sound id of a host without images, in a store whose trees are another host's. */
async function examineKnown(
  q: Query,
  layout: Layout,
  known: NodeId,
): Promise<NodeTrouble | undefined> {
  const only = await nodeOfTrees(q, layout)
  if (only === undefined || only === known) return undefined
  const own = await q
    .selectFrom('placements')
    .select('image_id')
    .where('node', '=', known)
    .limit(1)
    .executeTakeFirst()
  if (own) return undefined
  return {was: 'another', node: only, why: 'the trees of the store are its'}
}

function severalNodes(layout: Layout, nodes: NodeRow[]): ImgstoreError {
  const ids = nodes.map((node) => node.id).join(', ')
  const reason = `it is gone, and several hosts of the database may be this one; write the right id into it: ${ids}`
  return fail('store_invalid', {path: layout.nodeFile, reason})
}

function hasContent(layout: Layout): boolean {
  return [layout.blobs, layout.images, layout.overlays].some((dir) => namesIn(dir).length > 0)
}

function treesOf(layout: Layout): string[] {
  return namesIn(layout.images).flatMap((name) => {
    try {
      const note = readTreeNote(layout, parseImageName(name))
      return note ? [note.treeId] : []
    } catch {
      // Not ours.
      return []
    }
  })
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch {
    return []
  }
}
