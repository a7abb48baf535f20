/** Images of many entries out of a seed, and what their trees must look like. */
import {createHash} from 'node:crypto'
import {lstatSync, readFileSync, readdirSync, readlinkSync} from 'node:fs'
import {join} from 'node:path'

/** A generator of numbers in 0 … 1 that only its seed decides (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

export type TarEntry = {
  name: string
  type?: 'file' | 'directory' | 'symlink' | 'hardlink'
  content?: Buffer
  target?: string
  mode?: number
  mtime?: number
}

/** The bytes of a ustar archive. */
export function makeTar(entries: readonly TarEntry[]): Buffer {
  const blocks = entries.flatMap((entry) => {
    const content = entry.content ?? Buffer.alloc(0)
    return [header(entry, content.length), content, Buffer.alloc(-content.length & 511)]
  })
  return Buffer.concat([...blocks, Buffer.alloc(1024)])
}

const typeFlags = {file: '0', hardlink: '1', symlink: '2', directory: '5'} as const

function header(entry: TarEntry, sizeBytes: number): Buffer {
  const block = Buffer.alloc(512)
  const type = entry.type ?? 'file'
  const octal = (value: number, at: number, length: number): number =>
    block.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, 'latin1')
  block.write(entry.name, 0, 100)
  octal(entry.mode ?? (type === 'directory' ? 0o755 : 0o644), 100, 8)
  octal(0, 108, 8)
  octal(0, 116, 8)
  octal(sizeBytes, 124, 12)
  octal(entry.mtime ?? 1_700_000_000, 136, 12)
  block.write('        ', 148)
  block.write(typeFlags[type], 156)
  block.write(entry.target ?? '', 157, 100)
  block.write('ustar\x0000', 257, 'latin1')
  octal(
    block.reduce((sum, byte) => sum + byte, 0),
    148,
    7,
  )
  return block
}

export type Image = {bytes: Buffer; digest: string; tree: Map<string, string>}

/** An image with `files` files of `fileBytes` on average, in directories, with links among them. */
export function makeImage(
  seed: number,
  o: {files?: number; fileBytes?: number; extra?: readonly TarEntry[]} = {},
): Image {
  const random = randomOf(seed)
  const entries: TarEntry[] = [{name: './', type: 'directory'}]
  const dirs = ['']
  const files: string[] = []
  for (let i = 0; i < (o.files ?? 12); i++) {
    const dir = dirs[Math.floor(random() * dirs.length)] ?? ''
    if (i % 10 === 0) {
      const name = `${dir}d${i}/`
      dirs.push(name)
      entries.push({name, type: 'directory'})
    }
    const first = files[Math.floor(random() * files.length)]
    if (i % 7 === 6 && first !== undefined)
      entries.push({name: `${dir}hard${i}`, type: 'hardlink', target: first})
    else if (i % 7 === 5) entries.push({name: `${dir}soft${i}`, type: 'symlink', target: `d0`})
    else {
      const size = Math.floor(random() * 2 * (o.fileBytes ?? 4096))
      const content = Buffer.alloc(size)
      for (let at = 0; at + 4 <= size; at += 4) content.writeUInt32LE(random() * 2 ** 32, at)
      const name = `${dir}f${i}`
      files.push(name)
      entries.push({name, content, mode: i % 3 === 0 ? 0o755 : 0o644})
    }
  }
  entries.push(...(o.extra ?? []))
  const bytes = makeTar(entries)
  return {bytes, digest: sha256(bytes), tree: treeOf(entries)}
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

function treeOf(entries: readonly TarEntry[]): Map<string, string> {
  const tree = new Map<string, string>()
  for (const {name, type = 'file', content, target, mode} of entries) {
    const path = name.replace(/^\.\//, '').replace(/\/$/, '')
    if (path === '') continue
    if (type === 'directory') tree.set(path, 'directory 755')
    else if (type === 'symlink') tree.set(path, `symlink ${target ?? ''}`)
    else if (type === 'hardlink') tree.set(path, tree.get(target ?? '') ?? 'no such target')
    else tree.set(path, `file ${(mode ?? 0o644).toString(8)} ${sha256(content ?? Buffer.alloc(0))}`)
  }
  return sorted(tree)
}

/** A tree on disk in the form of `Image.tree`. */
export function readTree(root: string): Map<string, string> {
  const tree = new Map<string, string>()
  const walk = (dir: string): void => {
    for (const name of readdirSync(join(root, dir))) {
      const path = dir === '' ? name : `${dir}/${name}`
      const full = join(root, path)
      const stat = lstatSync(full)
      const mode = (stat.mode & 0o7777).toString(8)
      if (stat.isSymbolicLink()) tree.set(path, `symlink ${readlinkSync(full)}`)
      else if (stat.isDirectory()) {
        tree.set(path, `directory ${mode}`)
        walk(path)
      } else tree.set(path, `file ${mode} ${sha256(readFileSync(full))}`)
    }
  }
  walk('')
  return sorted(tree)
}

function sorted(tree: Map<string, string>): Map<string, string> {
  return new Map([...tree].sort(([a], [b]) => (a < b ? -1 : 1)))
}
