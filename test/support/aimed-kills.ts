/** Kills processes of a scene at random moments of chosen states of an image's life, and says in which state each fell. */
import {setTimeout as sleep} from 'node:timers/promises'
import SqliteDatabase from 'better-sqlite3'
import {expect} from 'chai'
import {imageStates} from '../../src/core/image.ts'
import type {Running, Scene} from './program.ts'

/** The states of a life from a URL to a mount, in their order. */
export const lifeStates = imageStates.filter((state) => state !== 'FAILED')

type Held = {pid: number; state: string}

/** Those that last for as long as bytes come or are written; the others last for a few commits. */
const longStates: ReadonlySet<string> = new Set(['DOWNLOADING', 'UNPACKING'])

/** How long an aim is kept before any process is taken. */
const patienceMs = 2000

export class AimedKills {
  kills = 0
  /** How many kills fell while the killed process worked on an image in that state; `idle` when it held none. */
  readonly counts = new Map<string, number>()
  readonly #scene: Scene
  readonly #random: () => number

  constructor(scene: Scene, random: () => number) {
    this.#scene = scene
    this.#random = random
  }

  /**
   * Kills one of `victims`: two times of three one that works in the state that was hit least, a random while after it
   * was seen there; else any, at any moment. Resolves when it is gone.
   */
  async kill(victims: () => Running[]): Promise<Running> {
    const database = new SqliteDatabase(this.#scene.db, {readonly: true, timeout: 15_000})
    try {
      const heldRows = database.prepare<[], Held>(
        `select o.pid, p.state from runs r join owners o on o.id = r.owner
         join placements p on p.image_id = r.image_id where r.status = 'running'`,
      )
      const victim = await this.#choose(victims, () => heldRows.all())
      victim.kill('SIGKILL')
      // One that had just come to its end takes no harm, and is no kill.
      if ((await victim.exited).signal !== 'SIGKILL') return await this.kill(victims)
      this.kills++
      const states = heldRows.all().filter(({pid}) => pid === victim.pid)
      for (const {state} of states) this.#count(state)
      if (states.length === 0) this.#count('idle')
      expect(database.pragma('integrity_check', {simple: true})).to.equal('ok')
      return victim
    } finally {
      database.close()
    }
  }

  #count(state: string): void {
    this.counts.set(state, (this.counts.get(state) ?? 0) + 1)
  }

  async #choose(victims: () => Running[], held: () => Held[]): Promise<Running> {
    const isAimed = this.#random() < 2 / 3
    const counted = (state: string): number => this.counts.get(state) ?? 0
    const [aim = 'NEW'] = lifeStates.toSorted((a, b) => counted(a) - counted(b))
    const until = performance.now() + (isAimed ? patienceMs : 50 + this.#random() * 650)
    while (performance.now() < until) {
      if (isAimed) {
        const pids = held().flatMap(({pid, state}) => (state === aim ? [pid] : []))
        const victim = victims().find(({pid}) => pids.includes(pid))
        if (victim) {
          // The first moment of a short state, any of a long one.
          const waitMs = this.#random() * (longStates.has(aim) ? 300 : 2)
          if (waitMs >= 1) await sleep(waitMs)
          return victim
        }
      }
      await sleep(1)
    }
    for (;;) {
      const all = victims()
      const victim = all[Math.floor(this.#random() * all.length)]
      if (victim) return victim
      await sleep(1)
    }
  }

  /** "NEW 3, DOWNLOADING 20, …" */
  text(): string {
    return [...lifeStates, 'FAILED', 'idle']
      .flatMap((state) => (this.counts.has(state) ? [`${state} ${this.counts.get(state)}`] : []))
      .join(', ')
  }
}
