/**
 * The host of the simulation: blobs, parts, trees and mounts, and steps that act on them as those of an image do, with
 * a pause wherever another process may come in between. What must never be seen on a host is a violation.
 */
import {fail} from '../../../src/core/errors.ts'
import type {ImageOutcome, ImageStep, ImageStepContext} from '../../../src/core/images/lifecycle.ts'
import type {ImagePatch} from '../../../src/core/db/journal.ts'
import type {Goal, ImageState} from '../../../src/core/image.ts'
import type {Steps} from '../../../src/core/machine/runner.ts'
import type {Place, SimulatedClaim, SimulatedStore} from './store.ts'

type Part = {writers: number}
/** A process, as far as its steps see it. */
export type Process = {
  pause(): Promise<void>
  /** Parts that it has open: nobody writes to them any more when it dies. */
  parts: Set<Part>
}

const madeBy = /^(.*)\.(\d+)$/

export class SimulatedHost {
  readonly #store: SimulatedStore
  readonly #random: () => number
  readonly #blobs = new Set<number>()
  readonly #parts = new Map<number, Part>()
  readonly #staged = new Set<string>()
  readonly #published = new Map<number, string>()
  readonly #mounted = new Set<number>()
  /** Nothing fails any more. */
  isCalm = false
  mounts = 0

  constructor(store: SimulatedStore, random: () => number) {
    this.#store = store
    this.#random = random
  }

  /** Makes an image that is there already, in the state that it is in. */
  settle(place: Place, state: ImageState): void {
    place.state = state
    if (state === 'NEW') return
    this.#blobs.add(place.digest)
    if (state === 'DOWNLOADED') return
    place.treeId = `old-${place.id}.1`
    this.#published.set(place.id, place.treeId)
    if (state === 'ACTIVE') this.#mounted.add(place.id)
  }

  /** All that is mounted is gone. */
  reboot(): void {
    this.#mounted.clear()
  }

  /** As `reconcile` of the images: ACTIVE without a mount goes back to STORED, with a run. */
  reconcile(): void {
    for (const place of this.#store.places) {
      if (place.state !== 'ACTIVE' || place.run || this.#mounted.has(place.id)) continue
      place.state = 'STORED'
      this.#store.open(place, place.goal)
    }
  }

  die(process: Process): void {
    for (const part of process.parts) part.writers--
    process.parts.clear()
  }

  stepsOf(process: Process): Steps<ImageState, Goal, ImageStep, ImagePatch> {
    const at =
      (
        body: (place: Place, context: ImageStepContext, process: Process) => Promise<ImageOutcome>,
      ) =>
      async (context: ImageStepContext): Promise<ImageOutcome> => {
        const place = this.#store.places[context.claim.subject]
        if (!place || place.state === 'REMOVED') throw fail('lease_lost', {run: context.claim.run})
        return await body(place, context, process)
      }
    const nothing = (): Promise<ImageOutcome> => Promise.resolve({})
    return {
      begin: nothing,
      download: at(this.#download),
      begin_unpack: nothing,
      unpack: at(this.#unpack),
      publish: at(this.#publish),
      prepare: nothing,
      mount: at(this.#mount),
      unmount: at(this.#unmount),
      erase: at(this.#erase),
    }
  }

  clearFailing(claim: SimulatedClaim): Promise<void> {
    this.#discardStaged(claim)
    this.#dropPart(claim)
    return Promise.resolve()
  }

  /** Trees of the same run that later claims made belong to whoever took it over. */
  #discardStaged({run, epoch}: SimulatedClaim): void {
    for (const tree of this.#staged) {
      const [, of, by] = madeBy.exec(tree) ?? []
      if (of === run && Number(by) <= epoch) this.#staged.delete(tree)
    }
  }

  #dropPart(claim: SimulatedClaim): void {
    const digest = this.#store.places[claim.subject]?.digest ?? -1
    if (!this.#store.isFetchedByOther(claim.run, digest)) this.#parts.delete(digest)
  }

  /** Some steps heed the signal at their pauses, others do not; and now and then one fails. */
  async #meddle(context: ImageStepContext, process: Process): Promise<void> {
    await process.pause()
    const dice = this.#random()
    if (dice < 0.7) context.signal.throwIfAborted()
    if (this.isCalm || dice < 0.9) return
    if (dice < 0.97) throw fail('source_unavailable', {url: 'u', reason: 'r'})
    if (dice < 0.985) throw fail('source_not_image', {what: 'w'})
    throw fail('host_cannot_mount', {reason: 'r'})
  }

  #download = async (
    place: Place,
    context: ImageStepContext,
    process: Process,
  ): Promise<ImageOutcome> => {
    const {digest} = place
    if (this.#blobs.has(digest)) return {}
    const isShared = context.isTakeover || this.#store.mayHaveOtherWriter(context.claim.run, digest)
    const old = isShared ? undefined : this.#parts.get(digest)
    const part = old ?? {writers: 0}
    this.#parts.set(digest, part)
    if (++part.writers > 1) this.#store.violate(`two write to one part of blob ${digest}`)
    process.parts.add(part)
    try {
      await this.#meddle(context, process)
      context.progress(1)
      context.forward()
      await this.#meddle(context, process)
      // What another one has put in its place is not ours to name.
      if (this.#parts.get(digest) !== part)
        throw fail('source_unavailable', {url: 'u', reason: 'r'})
      this.#parts.delete(digest)
      this.#blobs.add(digest)
    } finally {
      if (process.parts.delete(part)) part.writers--
    }
    return {}
  }

  #unpack = async (
    place: Place,
    context: ImageStepContext,
    process: Process,
  ): Promise<ImageOutcome> => {
    const {run, epoch} = context.claim
    this.#discardStaged(context.claim)
    await this.#meddle(context, process)
    if (!this.#blobs.has(place.digest)) throw fail('internal', {reason: 'the blob is gone'})
    const treeId = `${run}.${epoch}`
    this.#staged.add(treeId)
    return {patch: {treeId}}
  }

  #publish = async (place: Place): Promise<ImageOutcome> => {
    const {treeId = 'none'} = place
    return await Promise.resolve({
      effect: () => {
        this.#mounted.delete(place.id)
        if (this.#published.get(place.id) === treeId) return
        if (!this.#staged.delete(treeId)) this.#store.violate(`the tree ${treeId} is gone`)
        this.#published.set(place.id, treeId)
      },
    })
  }

  #mount = async (
    place: Place,
    context: ImageStepContext,
    process: Process,
  ): Promise<ImageOutcome> => {
    await process.pause()
    context.signal.throwIfAborted()
    return {
      effect: () => {
        if (this.#mounted.has(place.id)) return
        if (!this.isCalm && this.#random() < 0.1) throw fail('host_cannot_mount', {reason: 'r'})
        if (place.state !== 'ACTIVATING') this.#store.violate(`a mount of a ${place.state} image`)
        if (this.#published.get(place.id) !== place.treeId)
          this.#store.violate(`${place.name} has another tree than its own`)
        this.#mounted.add(place.id)
        this.mounts++
      },
    }
  }

  #unmount = async (
    place: Place,
    context: ImageStepContext,
    process: Process,
  ): Promise<ImageOutcome> => {
    await this.#meddle(context, process)
    return {
      effect: () => {
        this.#mounted.delete(place.id)
      },
    }
  }

  #erase = async (
    place: Place,
    context: ImageStepContext,
    process: Process,
  ): Promise<ImageOutcome> => {
    await context.fenced(() => {
      this.#mounted.delete(place.id)
      this.#published.delete(place.id)
    })
    await this.#meddle(context, process)
    this.#dropPart(context.claim)
    if (!this.#store.isInUse(place.digest)) this.#blobs.delete(place.digest)
    return {}
  }

  /** What must hold at every moment. */
  check(): void {
    for (const place of this.#store.places) {
      const {state, id} = place
      if ((state === 'STORED' || state === 'REMOVED') && this.#mounted.has(id))
        this.#store.violate(`${place.name} is ${state} and mounted`)
      if (place.goal === 'REMOVED') continue
      if ((state === 'DOWNLOADED' || state === 'UNPACKING') && !this.#blobs.has(place.digest))
        this.#store.violate(`${place.name} is ${state} without its blob`)
      const isUp = state === 'STORED' || state === 'ACTIVATING' || state === 'ACTIVE'
      if (isUp && this.#published.get(id) !== place.treeId)
        this.#store.violate(`${place.name} is ${state} without its tree`)
    }
  }

  /** What must hold when nothing is left to do. */
  checkAtEnd(): void {
    this.check()
    for (const {state, id, name} of this.#store.places)
      if (state === 'ACTIVE' && !this.#mounted.has(id))
        this.#store.violate(`${name} is ACTIVE and not mounted`)
  }
}
