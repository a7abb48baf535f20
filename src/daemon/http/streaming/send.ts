/**
 * The plain sender: reads the file and writes the response, on any kind of connection. It is the fallback of the fast
 * one, and its oracle.
 *
 * Small bodies are read in one go and leave with their head in one system call: a hop through the thread pool costs
 * more than such a read. Larger ones are read asynchronously, one slice ahead of what the client is being sent
 * (bench/streaming measures both).
 */
import {read, readSync} from 'node:fs'
import {giveBuffer, sliceBytes, smallBytes, takeBuffer} from './buffers.ts'
import type {SendJob, Sender, SendOutcome} from './sender.ts'

export const sendPlainly: Sender = (job) => {
  const bytes = job.end - job.start + 1
  if (bytes <= smallBytes) sendSmall(job, bytes)
  else new Transfer(job).begin()
}

function sendSmall(job: SendJob, bytes: number): void {
  const {response, file} = job
  const buffer = takeBuffer(smallBytes)
  response.once('close', () => {
    const isSent = response.writableFinished
    // After a failure somebody may still hold it.
    if (isSent) giveBuffer(buffer)
    job.writingBytes = 0
    if (isSent) job.sentBytes = bytes
    job.finish(isSent ? 'sent' : 'aborted')
  })
  if (response.destroyed) return
  if (!readFully(file.fd, buffer, bytes, job.start) || !file.isUnchanged()) {
    response.destroy()
    return
  }
  response.writeHead(job.status, job.headers)
  job.writingBytes = bytes
  response.end(bytes === buffer.length ? buffer : buffer.subarray(0, bytes))
}

/** Whether `bytes` bytes could be read; a file that is shorter now, or cannot be read, is no longer what was promised. */
function readFully(fd: number, buffer: Buffer, bytes: number, start: number): boolean {
  try {
    let done = 0
    while (done < bytes) {
      const count = readSync(fd, buffer, done, bytes - done, start + done)
      if (count === 0) return false
      done += count
    }
    return true
  } catch {
    return false
  }
}

// Slices that transfers hold. Past the first bound none reads ahead (the others' writes are work enough meanwhile); past the
// second new ones take small slices, so that memory stays bounded however many there are.
let sliceCount = 0
const readAheadMax = 32
const largeSlicesMax = 64

/** One large body on its way: at most one slice being read and one being written. */
class Transfer {
  readonly #job: SendJob
  #position: number
  #filled: Buffer | undefined
  #isReading = false
  #isWriting = false
  #isClosed = false
  #isFinished = false
  #sliceCount = 0
  readonly #buffers: Buffer[] = []

  constructor(job: SendJob) {
    this.#job = job
    this.#position = job.start
  }

  begin(): void {
    const {response, status, headers} = this.#job
    response.once('close', () => {
      this.#isClosed = true
      this.#settle()
    })
    if (response.destroyed) return
    // The head waits in the response until the first slice is there: they leave together.
    response.writeHead(status, headers)
    this.#read()
  }

  #read(): void {
    const left = this.#job.end - this.#position + 1
    if (left <= 0) return
    this.#isReading = true
    const buffer = this.#buffers.pop() ?? this.#takeSlice()
    this.#fill(buffer, 0, Math.min(buffer.length, left))
  }

  #takeSlice(): Buffer {
    sliceCount++
    this.#sliceCount++
    return takeBuffer(sliceCount > largeSlicesMax ? smallBytes : sliceBytes)
  }

  #fill(buffer: Buffer, done: number, length: number): void {
    const {file} = this.#job
    read(file.fd, buffer, done, length - done, this.#position + done, (error, count) => {
      if (!this.#isClosed && !error && count > 0 && done + count < length) {
        this.#fill(buffer, done + count, length)
        return
      }
      this.#isReading = false
      if (this.#isClosed) {
        giveBuffer(buffer)
        this.#settle()
      } else if (error || count === 0 || !file.isUnchanged()) {
        giveBuffer(buffer)
        this.#job.response.destroy()
      } else {
        this.#position += length
        this.#filled = buffer
        this.#length = length
        this.#write()
      }
    })
  }

  #length = 0

  #write(): void {
    const buffer = this.#filled
    if (!buffer || this.#isWriting) return
    const {response, end} = this.#job
    const length = this.#length
    this.#filled = undefined
    this.#isWriting = true
    this.#job.writingBytes = length
    const slice = length === buffer.length ? buffer : buffer.subarray(0, length)
    const written = (error?: Error | null): void => {
      if (this.#isFinished) return
      this.#isWriting = false
      this.#job.writingBytes = 0
      if (error) return
      this.#job.sentBytes += length
      this.#buffers.push(buffer)
      if (this.#isClosed) return
      // A read that waited for a buffer begins before the next write, so that both are under way at once.
      if (!this.#isReading && !this.#filled) this.#read()
      this.#write()
    }
    response.write(slice, written)
    if (this.#position > end) response.end()
    else if (sliceCount < readAheadMax) this.#read()
  }

  /**
   * Ends the job once the response is closed and no read is under way. A write to a connection that is going down may
   * never call back: its buffer is left to whoever holds it.
   */
  #settle(): void {
    if (this.#isFinished || !this.#isClosed || this.#isReading) return
    this.#isFinished = true
    sliceCount -= this.#sliceCount
    this.#job.writingBytes = 0
    if (this.#filled) giveBuffer(this.#filled)
    for (const buffer of this.#buffers.splice(0)) giveBuffer(buffer)
    const outcome: SendOutcome = this.#job.response.writableFinished ? 'sent' : 'aborted'
    this.#job.finish(outcome)
  }
}
