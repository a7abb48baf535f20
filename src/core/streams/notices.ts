import type {Logger} from '../log.ts'
import type {StreamProblem} from '../stream.ts'

/** A directory that went away makes a problem of each image; past these they are one line. */
export const noticeLinesMax = 20

/** Tells the log what is wrong with which image: once, until it changes, and once more when it is well again. */
export class Notices {
  readonly #log: Logger
  /** The reason that was told last, by image; holds only ids that a catalog or the store names. */
  readonly #told = new Map<string, string>()
  #clashes = ''

  constructor(log: Logger) {
    this.#log = log
  }

  /** All problems there are; those of the catalog itself were told when it was read. */
  tell(found: readonly StreamProblem[]): void {
    const problems = found.filter(({kind}) => kind === 'file')
    const fresh = problems.filter(({id, reason}) => this.#told.get(id) !== reason)
    for (const {id, reason} of fresh.slice(0, noticeLinesMax)) this.#warn(id, reason)
    for (const {id, reason} of fresh) this.#told.set(id, reason)
    const rest = fresh.length - noticeLinesMax
    if (rest > 0) this.#log.warn({images: rest}, 'more images are left out')
    if (this.#told.size === problems.length) return
    const ids = new Set(problems.map(({id}) => id))
    for (const id of this.#told.keys()) if (!ids.has(id)) this.isWell(id)
  }

  tellOne(id: string, reason: string): void {
    if (this.#told.get(id) === reason) return
    this.#told.set(id, reason)
    this.#warn(id, reason)
  }

  isWell(id: string): void {
    if (this.#told.size > 0 && this.#told.delete(id))
      this.#log.info({image_id: id}, 'image is served again, or is no longer named')
  }

  /** Ids of the store's disks that the directory has too. */
  tellClashes(ids: readonly string[]): void {
    const clashes = ids.join('\n')
    if (this.#clashes === clashes) return
    const before = new Set(this.#clashes.split('\n'))
    this.#clashes = clashes
    for (const id of ids.filter((clash) => !before.has(clash)).slice(0, noticeLinesMax))
      this.#log.warn({image_id: id}, 'the images directory hides a disk of the store with this id')
  }

  #warn(id: string, reason: string): void {
    this.#log.warn({image_id: id, reason}, 'image is left out')
  }
}
