/** What was odd but harmless, in the order met; an archive can make millions, so only the first are kept. */

export type UnpackWarning = {code: string; entry: string; message: string}

export type Warn = (code: string, entry: string, message: string) => void

const WARNINGS_MAX = 100
const TEXT_MAX = 500

export class Warnings {
  readonly list: UnpackWarning[] = []
  total = 0

  add(code: string, entry: string, message: string): void {
    this.total++
    if (this.list.length >= WARNINGS_MAX) return
    // Quoted only where it is shown; cut here, because it crosses a process boundary.
    this.list.push({code, entry: entry.slice(0, TEXT_MAX), message: message.slice(0, TEXT_MAX)})
  }
}
