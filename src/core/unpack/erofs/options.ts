/** What an image is told beside its tree. */

export type ErofsOptions = {
  /** 16 bytes. */
  uuid: Buffer
  /** `blocks` of 512 bytes each; `tag` is for people. */
  devices: readonly {blocks: number; tag?: string}[]
  /** Time of inodes that carry none of their own; the commonest time of the tree when it is absent. */
  buildTime?: {seconds: number; nanoseconds: number}
  /** Fills `buffer` with what device `device` (counted from 1) holds at `position`; for data that must be copied. */
  readDevice?: (device: number, position: number, buffer: Buffer) => void
}
