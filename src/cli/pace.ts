/** How fast bytes flow, and when to speak of it. */
import type {Clock} from '../core/clock.ts'
import type {Progress} from '../core/image.ts'

/** How fast and how much longer, as far as anyone can say. */
export type Pace = {bytesPerSecond?: number; leftMs?: number}

// Weight of the past fades to 1/e in this time: long enough to read the number, short enough to follow the line.
const FADE_MS = 3000

/** Smooths the rate of one stream of bytes; starts again when the bytes go backwards (a new attempt). */
export class Pacer {
  private last: Progress | undefined
  private rate: number | undefined

  next(progress: Progress): Pace {
    const last = this.last
    if (!last || progress.doneBytes < last.doneBytes) {
      this.rate = undefined
      this.last = progress
      return {}
    }
    const elapsedMs = progress.at - last.at
    if (elapsedMs > 0) {
      const rate = ((progress.doneBytes - last.doneBytes) / elapsedMs) * 1000
      const keep = Math.exp(-elapsedMs / FADE_MS)
      this.rate = this.rate === undefined ? rate : this.rate * keep + rate * (1 - keep)
      this.last = progress
    }
    return this.pace(progress)
  }

  private pace(progress: Progress): Pace {
    if (this.rate === undefined) return {}
    const pace: Pace = {bytesPerSecond: this.rate}
    if (progress.totalBytes !== undefined && this.rate > 0) {
      const leftBytes = Math.max(0, progress.totalBytes - progress.doneBytes)
      pace.leftMs = (leftBytes / this.rate) * 1000
    }
    return pace
  }
}

/** Keeps one smoothed rate a step, as a new step is a new stream of bytes. */
export class StepPacer {
  private step: string | undefined
  private pacer = new Pacer()

  next(step: string, progress: Progress): Pace {
    if (this.step !== step) {
      this.step = step
      this.pacer = new Pacer()
    }
    return this.pacer.next(progress)
  }
}

const LINE_EVERY_MS = 5000
// A hair under a tenth, as 0.3 - 0.2 is.
const LINE_EVERY_SHARE = 0.1 - 1e-9

/** Decides which of many progress reports become lines: one each 5 s or 10 %, whichever comes first. */
export class LineThrottle {
  private key: string | undefined
  private at = 0
  private share = 0

  private readonly clock: Clock

  constructor(clock: Clock) {
    this.clock = clock
  }

  isDue(key: string, progress: {doneBytes: number; totalBytes?: number | undefined}): boolean {
    const now = this.clock.now()
    const total = progress.totalBytes
    const share = total === undefined || total <= 0 ? 0 : progress.doneBytes / total
    if (this.key !== key || share < this.share) {
      this.key = key
      this.at = now
      this.share = 0
    }
    // The end is told by the line of the state that follows.
    if (share >= 1) return false
    if (now - this.at < LINE_EVERY_MS && share - this.share < LINE_EVERY_SHARE) return false
    this.at = now
    this.share = share
    return true
  }
}
