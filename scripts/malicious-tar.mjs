// Writes hostile tar archives, byte by byte, into the current directory: malicious-<what>.tar, with their
// SHA-256. Only header blocks and zeros are made; no path of the archives is ever opened here.
import {createHash} from 'node:crypto'
import {writeFileSync} from 'node:fs'
import {gzipSync} from 'node:zlib'

const blockBytes = 512
const kinds = {file: '0', hardlink: '1', symlink: '2', directory: '5'}

/** One ustar header block; `claimedBytes` is the size that it states, true or not. */
function header({name, kind = 'file', target = '', claimedBytes = 0, mode = 0o644}) {
  const block = Buffer.alloc(blockBytes)
  const octal = (value, digits) => value.toString(8).padStart(digits, '0')
  block.write(name, 0, 100)
  block.write(octal(mode, 7), 100)
  block.write(octal(0, 7), 108)
  block.write(octal(0, 7), 116)
  block.write(octal(claimedBytes, 11), 124)
  block.write(octal(0, 11), 136)
  block.write(kinds[kind], 156)
  block.write(target, 157, 100)
  block.write('ustar\0' + '00', 257)
  block.write('        ', 148)
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${octal(sum, 6)}\0 `, 148)
  return block
}

function file(name, text, mode) {
  const body = Buffer.from(text)
  const padding = Buffer.alloc((blockBytes - (body.length % blockBytes)) % blockBytes)
  return Buffer.concat([header({name, claimedBytes: body.length, mode}), body, padding])
}

const end = Buffer.alloc(2 * blockBytes)
const marker = 'written by malicious-tar.mjs\n'
const bombFiles = 10_001
const bombBytes = 200 * 1024 ** 2

const archives = {
  // Climbs out of the root by its name.
  traversal: [file('../imgstore-escaped', marker), end],
  // Names a place outside outright.
  'absolute-path': [file('/tmp/imgstore-escaped', marker), end],
  // A link out of the root, then a file written through it.
  'symlink-write-through': [
    header({name: 'escape', kind: 'symlink', target: '/tmp'}),
    file('escape/imgstore-escaped', marker),
    end,
  ],
  // Two innocent-looking links that climb out together, then a file written through them.
  'symlink-chain': [
    header({name: 'a/', kind: 'directory', mode: 0o755}),
    header({name: 'a/b', kind: 'symlink', target: '..'}),
    header({name: 'a/c', kind: 'symlink', target: 'b/..'}),
    file('a/c/imgstore-escaped', marker),
    end,
  ],
  // Borrows a file of the host by a hard link.
  hardlink: [header({name: 'stolen', kind: 'hardlink', target: '../../../etc/hostname'}), end],
  // States eight GiB less a byte and has none of it.
  'huge-size': [header({name: 'huge', claimedBytes: 8 * 1024 ** 3 - 1}), end],
  // More entries than a default image may have.
  'many-files': [...Array.from({length: bombFiles}, (_, i) => header({name: `file-${i}`})), end],
  // 200 MiB of zeros in 200 KiB.
  bomb: [
    gzipSync(
      Buffer.concat([
        header({name: 'zeros', claimedBytes: bombBytes}),
        Buffer.alloc(bombBytes),
        end,
      ]),
    ),
  ],
  // Root's for whoever runs it. This one is not refused but tamed: strict drops the bit.
  setuid: [file('bin/shell', '#!/bin/sh\n', 0o4755), end],
}

for (const [name, blocks] of Object.entries(archives)) {
  const bytes = Buffer.concat(blocks)
  const path = `malicious-${name}.tar`
  writeFileSync(path, bytes)
  console.log(`${createHash('sha256').update(bytes).digest('hex')}  ${path}`)
}
