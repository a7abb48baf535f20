import {Writable} from 'node:stream'

/** A stream that says it is a terminal and keeps what is drawn on it. */
export class FakeTerminal extends Writable {
  readonly isTTY = true
  columns = 100
  rows = 30
  private readonly chunks: string[] = []

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.chunks.push(chunk.toString())
    done()
  }

  cursorTo(): boolean {
    return true
  }

  moveCursor(): boolean {
    return true
  }

  clearLine(): boolean {
    return true
  }

  get drawn(): string {
    return this.chunks.join('')
  }

  /** For code that wants what `process.stdout` is. */
  get stream(): NodeJS.WriteStream {
    return this as unknown as NodeJS.WriteStream
  }

  /** What was drawn, without colours and cursor moves. */
  get text(): string {
    return this.drawn.replaceAll(/\u001b\[[?\d;]*[A-Za-z]/g, '')
  }
}
