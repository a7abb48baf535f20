/** How much there is of a file that another process is writing, as that one tells. */
export class Growth {
  private sizeBytes = 0
  private isOver = false
  private wake: (() => void) | undefined

  /** There are so many bytes now; with `isWhole` that is all. */
  tell(sizeBytes: number, isWhole: boolean): void {
    this.sizeBytes = sizeBytes
    this.isOver ||= isWhole
    this.wake?.()
  }

  /** Resolves with how many bytes there are when they are more than `position`, or when no more will come. */
  async reach(position: number): Promise<number> {
    while (this.sizeBytes <= position && !this.isOver) {
      await new Promise<void>((resolve) => (this.wake = resolve))
    }
    return this.sizeBytes
  }

  stop(): void {
    this.isOver = true
    this.wake?.()
  }
}
