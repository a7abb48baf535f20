import {closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {expect} from 'chai'
import {openat, write} from '../../../src/core/syscalls/files.ts'
import {systemCode} from '../../../src/core/errors.ts'

describe('system calls on files', () => {
  let dir = ''
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'imgstore-test-'))
  })
  afterEach(() => rmSync(dir, {recursive: true}))

  it('write the asked part of a buffer, wherever the buffer lies in its memory and whichever was written before', () => {
    const path = join(dir, 'file')
    const memory = Buffer.from('0123456789abcdef')
    const views = [memory, memory.subarray(3), memory.subarray(5, 9), Buffer.from('pooled')]
    const fd = openSync(path, 'w')
    let expected = ''
    try {
      for (const view of [...views, ...views]) {
        expect(write(fd, view, 1, 3)).to.equal(3)
        expected += view.toString('latin1', 1, 4)
      }
    } finally {
      closeSync(fd)
    }
    expect(readFileSync(path, 'latin1')).to.equal(expected)
  })

  it('write nothing from beyond a buffer', () => {
    const fd = openSync(join(dir, 'file'), 'w')
    try {
      const parts = [
        [-1, 2],
        [0, -1],
        [3, 2],
        [0, 5],
        [Number.NaN, 1],
        [0, 1.5],
      ] as const
      for (const [start, length] of parts) {
        expect(() => write(fd, Buffer.alloc(4), start, length), `${start} ${length}`).to.throw(
          'EFAULT',
        )
      }
    } finally {
      closeSync(fd)
    }
  })

  it('say why a write failed', () => {
    const path = join(dir, 'file')
    closeSync(openSync(path, 'w'))
    const fd = openSync(path, 'r')
    try {
      expect(() => write(fd, Buffer.alloc(4), 0, 4))
        .to.throw()
        .that.satisfies((error: unknown) => systemCode(error) === 'EBADF')
    } finally {
      closeSync(fd)
    }
  })

  it('refuse a name with a NUL or of more than a path can have', () => {
    const fd = openSync(dir, constants.O_RDONLY)
    const create = (name: string) => () => openat(fd, name, constants.O_CREAT, 0o600)
    try {
      expect(create('a\0b')).to.throw('EINVAL')
      expect(create('x'.repeat(4096))).to.throw('ENAMETOOLONG')
      closeSync(create('\xff\x01ok')())
    } finally {
      closeSync(fd)
    }
  })
})
