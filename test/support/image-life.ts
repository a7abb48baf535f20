/** Lives of images as shells lead them: one command after another, each of which must hold once it said that it did. */
import {readFileSync} from 'node:fs'
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {expect} from 'chai'
import type {BlobServer} from './blob-server.ts'
import {readTree, type Image} from './image-maker.ts'
import type {Ran, Scene} from './program.ts'
import {imagesOf, query} from './store-check.ts'

type Backend = 'dir' | 'erofs'

/** What a command that exited with 0 promised about a name; undefined when no image has it. */
export type Promised =
  {state: 'ACTIVE' | 'STORED'; backend: Backend | null; content: Content} | undefined

export type Content = {
  image: Image
  url: string
  /** The bytes of the disk that it is, instead of an archive. */
  disk?: Buffer
}

/** One name, led by one shell at a time. */
export class ImageLife {
  readonly name: string
  /** What holds; nothing can be said of it while a command is under way or was cut off. */
  promised: Promised | 'nothing' = undefined
  /** Commands that did what they said. */
  acknowledged = 0
  #last: string[] = []
  readonly #scene: Scene
  readonly #contents: readonly Content[]
  readonly #random: () => number

  constructor(name: string, o: {scene: Scene; contents: readonly Content[]; random: () => number}) {
    this.name = name
    this.#scene = o.scene
    this.#contents = o.contents
    this.#random = o.random
  }

  #pick<T>(of: readonly T[]): T {
    return of[Math.floor(this.#random() * of.length)] as T
  }

  /** Takes what is there for what was promised, after a command was cut off. */
  adopt(): void {
    const found = imagesOf(this.#scene).find(({name}) => name === this.name)
    const content = this.#contents.find(({image}) => image.digest === found?.digest)
    this.promised = undefined
    if (!found || !content) return
    const {state, tree_backend: backend} = found
    if (state !== 'ACTIVE' && state !== 'STORED') throw new Error(`${this.name} is ${state}`)
    this.promised = {state, backend: backend as Backend | null, content}
  }

  /**
   * Runs the next command of this life until it is done, however often whoever works on it is killed; `run` gives
   * nothing when there is no point in trying again.
   */
  async step(run: (args: string[]) => Promise<Ran | undefined>): Promise<void> {
    this.expectHolds()
    const {args, then, codes = [0]} = this.#next()
    this.promised = 'nothing'
    for (;;) {
      const ran = await run(args)
      if (ran === undefined) return
      if (ran.signal === 'SIGKILL') continue
      // Upkeep is just mending what a kill left; the message says to try again.
      if (ran.code === 11) {
        await sleep(100)
        continue
      }
      expect(codes, `${args.join(' ')}: ${ran.code} ${ran.stdout}${ran.stderr}`).to.include(
        ran.code,
      )
      break
    }
    this.promised = then
    this.acknowledged++
    this.#last = args
    this.expectHolds()
  }

  #next(): {args: string[]; then: Promised; codes?: number[]} {
    const before = this.promised
    const {name} = this
    if (before === 'nothing') throw new Error('a shell leads one command at a time')
    if (before === undefined) {
      const content = this.#pick(this.#contents)
      const backend = content.disk ? null : this.#pick(['dir', 'erofs'] as const)
      const how = backend === null ? ['--kind', 'disk'] : ['--backend', backend]
      const args = ['fetch', name, content.url, content.image.digest, ...how, '--wait']
      return {args, then: {state: 'ACTIVE', backend, content}}
    }
    const other: Backend = before.backend === 'dir' ? 'erofs' : 'dir'
    const choices: {args: string[]; then: Promised; codes?: number[]}[] = [
      before.state === 'ACTIVE'
        ? {args: ['deactivate', name], then: {...before, state: 'STORED'}}
        : {args: ['activate', name], then: {...before, state: 'ACTIVE'}},
      ...(before.backend === null
        ? []
        : [{args: ['convert', name, '--backend', other], then: {...before, backend: other}}]),
      // Not found: an earlier try had done it when it was killed.
      {args: ['remove', name], then: undefined, codes: [0, 10]},
    ]
    return this.#pick(choices)
  }

  /** What was promised is there. */
  expectHolds(): void {
    if (this.promised === 'nothing') return
    const found = imagesOf(this.#scene).find(({name}) => name === this.name)
    const {promised} = this
    expect(
      found && [found.state, found.digest, found.tree_backend],
      `${this.name} is as was told: ${this.#last.join(' ')}`,
    ).to.deep.equal(promised && [promised.state, promised.content.image.digest, promised.backend])
    if (!promised) return
    const rows = query<{digest: string}>(
      this.#scene,
      `select digest from blobs where digest = '${promised.content.image.digest}'`,
    )
    expect(rows, `the blob of ${this.name}`).to.have.length(1)
  }

  /** The tree is what was fetched, where it can be seen without a mount of our own. */
  expectTree(): void {
    const {promised, name} = this
    if (promised === undefined || promised === 'nothing') return
    if (promised.state === 'STORED' && promised.backend === 'erofs') return
    const {image, disk} = promised.content
    if (disk) {
      if (promised.state === 'ACTIVE') this.#expectDisk(disk)
      return
    }
    const root = promised.state === 'ACTIVE' ? `active/${name}` : `images/${name}/rootfs`
    expect(readTree(join(this.#scene.store, root)), name).to.deep.equal(image.tree)
  }

  #expectDisk(disk: Buffer): void {
    const dir = join(this.#scene.store, 'disks')
    const {file} = JSON.parse(readFileSync(join(dir, `${this.name}.json`), 'utf8')) as {
      file: string
    }
    expect(readFileSync(join(dir, file)).equals(disk), this.name).to.equal(true)
  }
}

/** Serves images under paths of their own. */
export function serveContents(
  server: BlobServer,
  images: readonly Image[],
  bytesPerSecond: number,
): Content[] {
  return images.map((image, i) => ({
    image,
    url: server.put(`/content-${i}.tar`, image.bytes, {bytesPerSecond}),
  }))
}
