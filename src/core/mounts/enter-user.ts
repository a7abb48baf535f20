/** Who a program in an image runs as, by the image's own lists of users. */
import {closeSync, constants, fstatSync, lstatSync, openSync, readFileSync} from 'node:fs'
import {join} from 'node:path'
import {fdPath, UnfitImage} from './enter-root.ts'

export type ImageUser = {uid: number; gid: number; home: string}

// An image's /etc/passwd may be anything; a real one with ten thousand users has about 600 KiB.
const fileBytesMax = 1024 * 1024

/**
 * Finds a user given as `uid`, `uid:gid`, `name` or `name:group`; nobody given is root.
 *
 * Errors: UnfitImage when the image does not know the name.
 */
export function findUser(rootDir: string, user: string | undefined): ImageUser {
  const [name = '', group] = (user ?? '0').split(':')
  const users = readColons(rootDir, 'passwd')
  const row = users.find((fields) => (/^\d+$/.test(name) ? fields[2] === name : fields[0] === name))
  if (row === undefined && !isId(name)) throw new UnfitImage(`the image has no user ${name}`)
  const uid = isId(name) ? Number(name) : idOf(row?.[2])
  const gid =
    group === undefined ? (row === undefined ? uid : idOf(row[3])) : findGroup(rootDir, group)
  const home = row?.[5]
  return {uid, gid, home: home?.startsWith('/') === true ? home : uid === 0 ? '/root' : '/'}
}

/**
 * Refuses lists of users that are there but are no files: runc reads them too, and would wait for a pipe.
 *
 * Errors: UnfitImage.
 */
export function checkUserLists(rootDir: string): void {
  const etc = join(rootDir, 'etc')
  if (lstatSync(etc, {throwIfNoEntry: false})?.isSymbolicLink() === true)
    throw new UnfitImage('/etc of the image is a link')
  for (const name of ['passwd', 'group']) {
    const stat = lstatSync(join(etc, name), {throwIfNoEntry: false})
    if (stat !== undefined && !stat.isFile())
      throw new UnfitImage(`/etc/${name} of the image is not a file; --driver unshare takes it`)
  }
}

function findGroup(rootDir: string, group: string): number {
  if (isId(group)) return Number(group)
  const row = readColons(rootDir, 'group').find((fields) => fields[0] === group)
  if (row === undefined) throw new UnfitImage(`the image has no group ${group}`)
  return idOf(row[2])
}

// The two highest numbers mean "nobody in particular" to the kernel.
function isId(text: string): boolean {
  return /^\d{1,10}$/.test(text) && Number(text) < 0xfffffffe
}

function idOf(text: string | undefined): number {
  if (text === undefined || !isId(text)) throw new UnfitImage('its list of users is damaged')
  return Number(text)
}

/** The lines of a file in the image's /etc; nothing when it is missing, a link, or not a file. */
function readColons(rootDir: string, name: string): string[][] {
  const opened: number[] = []
  const noFollow = constants.O_RDONLY | constants.O_NOFOLLOW
  try {
    opened.push(openSync(rootDir, noFollow | constants.O_DIRECTORY))
    opened.push(openSync(`${fdPath(opened[0] ?? -1)}/etc`, noFollow | constants.O_DIRECTORY))
    // Not blocking: a pipe of this name would else wait for a writer for ever.
    const file = openSync(`${fdPath(opened[1] ?? -1)}/${name}`, noFollow | constants.O_NONBLOCK)
    opened.push(file)
    const stat = fstatSync(file)
    if (!stat.isFile() || stat.size > fileBytesMax) return []
    const lines = readFileSync(file, 'utf8').split('\n')
    return lines.map((line) => line.split(':'))
  } catch {
    return []
  } finally {
    for (const fd of opened) closeSync(fd)
  }
}
