/** Loop devices: block devices made of files, for kernels that mount nothing else. Numbers from linux/loop.h. */
import {closeSync, constants, openSync} from 'node:fs'
import {systemCode} from '../errors.ts'
import {certain, lastErrno} from './errno.ts'
import {libc, systemError} from './libc.ts'

const LOOP_CONFIGURE = 0x4c0a
const LOOP_CTL_GET_FREE = 0x4c82
const LO_FLAGS_READ_ONLY = 1
const LO_FLAGS_AUTOCLEAR = 4

// struct loop_config: fd, block size, struct loop_info64 (232 bytes), reserved.
const CONFIG_BYTES = 304
const INFO_AT = 8
const FLAGS_AT = INFO_AT + 52
const FILE_NAME_AT = INFO_AT + 56
const FILE_NAME_BYTES = 64

const ATTEMPTS_MAX = 64

/** A loop device that ends by itself when it is neither open nor mounted; `fd` is the caller's to close. */
export type LoopDevice = {path: string; fd: number}

/**
 * Attaches a file, read-only, to a free loop device (LOOP_CONFIGURE, Linux 5.8).
 *
 * Errors: a system error; host_lacks when koffi cannot load.
 */
export function attachLoop(filePath: string): LoopDevice {
  const {koffi, lib} = libc()
  const ioctl = certain(lib.func('ioctl', 'int', ['int', 'unsigned long', 'void *']), () =>
    koffi.errno(),
  )
  const call = (fd: number, request: number, argument: Buffer | null): number => {
    const result = ioctl(fd, request, argument)
    if (result < 0) throw systemError('ioctl', lastErrno(), filePath)
    return result
  }
  const config = Buffer.alloc(CONFIG_BYTES)
  const fileFd = openSync(filePath, constants.O_RDONLY)
  try {
    const controlFd = openSync('/dev/loop-control', constants.O_RDWR)
    try {
      config.writeUInt32LE(fileFd, 0)
      config.writeUInt32LE(LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR, FLAGS_AT)
      // For people who list devices; cut short, with its NUL.
      config.write(filePath, FILE_NAME_AT, FILE_NAME_BYTES - 1, 'utf8')
      for (let attempt = 1; ; attempt++) {
        const path = `/dev/loop${call(controlFd, LOOP_CTL_GET_FREE, null)}`
        const fd = openSync(path, constants.O_RDONLY)
        try {
          call(fd, LOOP_CONFIGURE, config)
          return {path, fd}
        } catch (error) {
          closeSync(fd)
          // Another process took it between the two calls.
          if (systemCode(error) !== 'EBUSY' || attempt >= ATTEMPTS_MAX) throw error
        }
      }
    } finally {
      closeSync(controlFd)
    }
  } finally {
    closeSync(fileFd)
  }
}
