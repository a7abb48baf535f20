/** The data of one file at a time, holes kept. */
import {closeSync, ftruncateSync, writeSync} from 'node:fs'
import type {Segment} from '../archive/entry.ts'
import {closeQuietly, type DirCalls} from './calls.ts'

export class FileWriter {
  private readonly calls: DirCalls
  private openFd = -1
  private segments: Segment[] | undefined
  private segmentIndex = 0
  /** Bytes of the current segment that are written. */
  private segmentBytes = 0

  constructor(calls: DirCalls) {
    this.calls = calls
  }

  get fd(): number {
    return this.openFd
  }

  get isOpen(): boolean {
    return this.openFd !== -1
  }

  /** Takes over a descriptor of an empty file. */
  open(fd: number, segments: Segment[] | undefined): void {
    this.openFd = fd
    this.segments = segments
    this.segmentIndex = 0
    this.segmentBytes = 0
  }

  write(chunk: Buffer, start: number, end: number): void {
    if (this.segments === undefined) {
      let at = start
      while (at < end) at += this.calls.write(this.openFd, chunk, at, end - at)
      return
    }
    let at = start
    while (at < end) {
      const segment = this.segments[this.segmentIndex]
      if (segment === undefined) return
      const left = segment.length - this.segmentBytes
      if (left === 0) {
        this.segmentIndex++
        this.segmentBytes = 0
        continue
      }
      const count = Math.min(left, end - at)
      this.writeAt(chunk, at, count, segment.offset + this.segmentBytes)
      this.segmentBytes += count
      at += count
    }
  }

  /** Gives a sparse file its size: a hole at its end leaves no byte that would. */
  setSize(sizeBytes: number): void {
    if (this.segments !== undefined) ftruncateSync(this.openFd, sizeBytes)
  }

  close(): void {
    const fd = this.openFd
    this.openFd = -1
    closeSync(fd)
  }

  abandon(): void {
    if (this.openFd !== -1) closeQuietly(this.openFd)
    this.openFd = -1
  }

  private writeAt(chunk: Buffer, start: number, length: number, position: number): void {
    let count = 0
    while (count < length) {
      count += writeSync(this.openFd, chunk, start + count, length - count, position + count)
    }
  }
}
