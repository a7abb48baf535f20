/**
 * Many workers and shells on one store, some stopped past their leases, under a clock that somebody sets: each step
 * takes effect once, no wish is lost, and what shells see of one image has come about in some legal order.
 */
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {expect} from 'chai'
import {readMountTable} from '../../src/core/mounts/mount-table.ts'
import {useServers, type BlobServer} from '../support/blob-server.ts'
import {faultSeed, howMany, isLong, recordRow} from '../support/faults.ts'
import {makeImage, randomOf, readTree, type Image} from '../support/image-maker.ts'
import {findLegalOrder, type Call, type Known, type Op} from '../support/legal-orders.ts'
import {until, useScenes, type Running, type Scene} from '../support/program.ts'
import {requires} from '../support/requires.ts'
import {makeSetClock, removeClockLeftovers, type SetClock} from '../support/set-clock.ts'
import type {Order} from '../support/shell-process.ts'
import {openShell, type Shell} from '../support/shells.ts'
import {eventsOf, expectSoundStore, imagesOf, query, runsOf} from '../support/store-check.ts'

const workerCount = howMany(3, 8)
const imageCount = howMany(16, 500)
const roundCount = howMany(30, 1000)
const commandRounds = howMany(2, 40)

const transitions = [
  'NEW → DOWNLOADING',
  'DOWNLOADING → DOWNLOADED',
  'DOWNLOADED → UNPACKING',
  'UNPACKING → UNPACKED',
  'UNPACKED → STORED',
  'STORED → ACTIVATING',
  'ACTIVATING → ACTIVE',
]

describe('many processes on one store', function () {
  requires('root', 'program:faketime')
  this.timeout(isLong ? 7_200_000 : 240_000)
  const shells: Shell[] = []
  afterEach('closes the shells', async () => {
    for (const shell of shells.splice(0)) await shell.close()
  })
  const newScene = useScenes()
  const newServer = useServers()
  after('takes away what the set clocks left', removeClockLeftovers)

  it(`bring ${imageCount} images to ACTIVE with ${workerCount} workers that are stopped past their leases while the clock is set`, async () => {
    console.log(`    IMGSTORE_TEST_SEED=${faultSeed}`)
    const [scene, server] = [newScene(), await newServer()]
    const clock = makeSetClock(scene.dir)
    Object.assign(scene.env, clock.env, {
      IMGSTORE_LEASE: '1s',
      IMGSTORE_POLL: '100ms',
      IMGSTORE_RETRY_WAIT: '100ms',
      // What the set clock makes old is not to be forgotten before it was looked at.
      IMGSTORE_KEEP_EVENTS: '87600h',
    })
    const images = await enqueue(scene, server, shells)
    const workers = Array.from({length: workerCount}, () => scene.start(['worker']))
    const trouble = makeTrouble(scene, workers, clock)
    let commands = 0
    const isUp = (): boolean => {
      const states = imagesOf(scene).map(({state}) => state)
      expect(states, 'an image').not.to.include('FAILED')
      return states.every((state) => state === 'ACTIVE')
    }
    const lookOn = async (): Promise<void> => {
      await until('all images to be ACTIVE', isUp, isLong ? 3_600_000 : 150_000)
      trouble.isOver = true
    }
    try {
      const crowd = useCommands(scene, [...images.keys()], () => trouble.isOver)
      ;[commands] = await Promise.all([crowd, lookOn()])
    } finally {
      await trouble.end()
    }
    const {stops, jumps, stacked} = trouble
    expect(stacked, 'mounts upon mounts').to.deep.equal([])
    expectOneRunEach(scene, [...images.keys()])

    const wishes = await changeMinds(scene, [...images.keys()], shells)
    for (const worker of workers) worker.kill('SIGTERM')
    for (const worker of workers) expect((await worker.exited).code).to.equal(0)
    await scene.ok(['worker', '--once'])
    const found = imagesOf(scene).map(({name, state}) => [name, state])
    const wanted = [...wishes].filter(([, wish]) => wish !== 'REMOVED')
    expect(found, 'the last wish of each').to.deep.equal(wanted.sort())
    for (const [name, wish] of wanted)
      if (wish === 'ACTIVE')
        expect(readTree(join(scene.store, 'active', name)), name).to.deep.equal(
          images.get(name)?.tree,
        )
    await expectSoundStore(scene)
    const takeovers = new Set(
      eventsOf(scene)
        .filter(({epoch}) => epoch > 1)
        .map((e) => e.run_id),
    )
    recordRow({
      row: 'many-processes',
      injected: `${imageCount} images, ${workerCount} workers, ${stops} × SIGSTOP, the clock set ${jumps} times, ${commands} commands beside`,
      checked: 'each step of each run once, one mount each, the last wish of each image holds',
      figures: `${takeovers.size} runs changed hands`,
    })
  })

  it('see one image in a legal order, however many ask for it at once', async () => {
    console.log(`    IMGSTORE_TEST_SEED=${faultSeed}`)
    const [scene, server] = [newScene(), await newServer()]
    Object.assign(scene.env, {IMGSTORE_LEASE: '5s', IMGSTORE_POLL: '20ms'})
    const sources = ['a', 'b'].map((word, n) => {
      const {bytes, digest} = makeImage(faultSeed + n, {files: 3})
      return {word, url: server.put(`/${word}.tar`, bytes), digest}
    })
    const words = Object.fromEntries(sources.map(({digest, word}) => [digest, word]))
    const worker = scene.start(['worker'])
    for (let n = 0; n < 4; n++) shells.push(await openShell(scene, n, words))
    const random = randomOf(faultSeed)
    let before: Known
    const results = new Map<string, number>()
    for (let round = 0; round < roundCount + commandRounds; round++) {
      const orders = shells.map(() => chooseOrders(random, sources))
      const answers =
        round < roundCount
          ? await Promise.all(shells.map((shell, n) => shell.ask(orders[n] ?? [])))
          : await Promise.all(orders.map((list, n) => askByCommand(scene, n, list, words)))
      const seen = answers.flat()
      const after = await settled(scene, words)
      const order = findLegalOrder(seen, before, after)
      expect(order, explain(round, seen, before, after)).to.be.an('array')
      before = after
      for (const {op, result} of seen) {
        const key = `${op} ${result.split(' ')[0]}`
        results.set(key, (results.get(key) ?? 0) + 1)
      }
    }
    worker.kill('SIGTERM')
    expect((await worker.exited).code).to.equal(0)
    await expectSoundStore(scene)
    const calls = [...results.values()].reduce((sum, count) => sum + count, 0)
    recordRow({
      row: 'many-processes',
      injected: `${calls} calls of 4 shells for one name in ${roundCount + commandRounds} rounds at once`,
      checked: 'each round has a serial order that explains every answer and the end',
      figures: [...results]
        .sort()
        .map(([key, count]) => `${count} × ${key}`)
        .join(', '),
    })
  })
})

/** Half as many archives as images, so that some share a blob; every tenth image by a command, the others by a shell. */
async function enqueue(
  scene: Scene,
  server: BlobServer,
  shells: Shell[],
): Promise<Map<string, Image>> {
  const images = new Map<string, Image>()
  const shell = await openShell(scene, 0, {})
  shells.push(shell)
  for (let n = 0; n < imageCount; n++) {
    const image = makeImage(faultSeed + Math.floor(n / 2), {files: 40, fileBytes: 2000})
    const name = `image-${String(n).padStart(3, '0')}`
    images.set(name, image)
    const url = server.put(`/${Math.floor(n / 2)}.tar`, image.bytes, {bytesPerSecond: 400_000})
    if (n % 10 === 0) await scene.ok(['fetch', name, url, image.digest, '--backend', 'erofs'])
    else await shell.ask([{op: 'fetch', name, source: {word: name, url, digest: image.digest}}])
  }
  return images
}

type Trouble = {
  isOver: boolean
  stops: number
  jumps: number
  /** Places of images that had more than one mount. */
  stacked: string[]
  end(): Promise<void>
}

/** Stops workers past their leases and sets their clock, until it is ended; looks for doubled mounts all the while. */
function makeTrouble(scene: Scene, workers: Running[], clock: SetClock): Trouble {
  const random = randomOf(faultSeed)
  const trouble: Trouble = {
    isOver: false,
    stops: 0,
    jumps: 0,
    stacked: [],
    end: async () => {
      trouble.isOver = true
      await Promise.all([...stopping, jumping, looking])
    },
  }
  const stopping = workers.map(async (worker) => {
    while (!trouble.isOver) {
      await sleep(200 + random() * 1800)
      const target = random() < 0.5 ? worker.pid : -worker.pid
      process.kill(target, 'SIGSTOP')
      trouble.stops++
      await sleep(random() * 2500)
      process.kill(target, 'SIGCONT')
    }
  })
  const jumping = (async () => {
    // Minutes, hours, years, and back again.
    const offsets = [0, 3, -3, 90, -90, 7200, -7200, 40_000_000, -40_000_000]
    while (!trouble.isOver) {
      await sleep(500 + random() * 1500)
      clock.set(offsets[Math.floor(random() * offsets.length)] ?? 0)
      trouble.jumps++
    }
    clock.set(0)
  })()
  const looking = (async () => {
    while (!trouble.isOver) {
      trouble.stacked.push(...stackedMounts(scene))
      await sleep(100)
    }
  })()
  return trouble
}

/** Places of images where more than one thing is mounted. */
function stackedMounts(scene: Scene): string[] {
  const points = readMountTable()
    .map(({mountPoint}) => mountPoint)
    .filter((point) => point.startsWith(`${scene.store}/`))
  return points.filter((point, n) => points.indexOf(point) !== n)
}

/** Commands that change nothing, over and over; each must do well. Returns how many. */
async function useCommands(scene: Scene, names: string[], isOver: () => boolean): Promise<number> {
  const random = randomOf(faultSeed + 1)
  let count = 0
  while (!isOver()) {
    const name = names[Math.floor(random() * names.length)] ?? ''
    const commands = [['status', name], ['list'], ['activate', name, '--no-wait'], ['cleanup']]
    await scene.ok(commands[Math.floor(random() * commands.length)] ?? [])
    count++
  }
  return count
}

function expectOneRunEach(scene: Scene, names: string[]): void {
  const runs = runsOf(scene)
  expect(runs.map(({image_name}) => image_name).sort()).to.deep.equal(names)
  const events = eventsOf(scene).filter(({kind}) => kind === 'transition')
  for (const {id, image_name, status} of runs) {
    expect(status, image_name).to.equal('done')
    const steps = events.filter(({run_id}) => run_id === id)
    expect(
      steps.map(({from_state, to_state}) => `${from_state} → ${to_state}`),
      image_name,
    ).to.deep.equal(transitions)
  }
}

/** Shells that each have images of their own, and change their minds about them. Returns the last wish of each image. */
async function changeMinds(
  scene: Scene,
  names: string[],
  shells: Shell[],
): Promise<Map<string, string>> {
  const random = randomOf(faultSeed + 2)
  const wishes = new Map(names.map((name) => [name, 'ACTIVE']))
  while (shells.length < 4) shells.push(await openShell(scene, shells.length, {}))
  const ops = [
    ['deactivate', 'STORED'],
    ['activate', 'ACTIVE'],
    ['deactivate', 'STORED'],
    ['remove', 'REMOVED'],
  ] as const
  const lists = shells.map((): Order[] => [])
  for (let n = 0; n < names.length * 3; n++) {
    const at = Math.floor(random() * names.length)
    const name = names[at] ?? ''
    const [op, wish] = ops[Math.floor(random() * (random() < 0.3 ? 4 : 3))] ?? ops[0]
    // What is being removed takes no other wish.
    if (wishes.get(name) === 'REMOVED') continue
    wishes.set(name, wish)
    lists[at % lists.length]?.push({op, name})
  }
  const answers = await Promise.all(shells.map((shell, n) => shell.ask(lists[n] ?? [])))
  for (const {op, result} of answers.flat()) expect(result, op).to.match(/^ok\b/)
  return wishes
}

const ops: Op[] = [
  'fetch',
  'fetch',
  'replace',
  'activate',
  'deactivate',
  'remove',
  'remove',
  'retry',
  'status',
  'cleanup',
]

function chooseOrders(random: () => number, sources: NonNullable<Order['source']>[]): Order[] {
  return Array.from({length: 1 + Math.floor(random() * 4)}, () => {
    const op = ops[Math.floor(random() * ops.length)] ?? 'status'
    const source = sources[Math.floor(random() * sources.length)]
    const isFetch = op === 'fetch' || op === 'replace'
    return {op, name: 'one', ...(isFetch && source ? {source} : {})}
  })
}

const argsOf = ({op, name, source}: Order): string[] => {
  switch (op) {
    case 'fetch':
    case 'replace': {
      const how = op === 'replace' ? ['--replace'] : []
      return ['fetch', name, source?.url ?? '', source?.digest ?? '', ...how]
    }
    case 'cleanup':
      return ['cleanup']
    case 'status':
      return ['status', name]
    default:
      return [op, name, '--no-wait']
  }
}

type Printed = {outcome?: string; goal: string; digest: string; error?: {code: string}}

/** The same calls by the program itself. */
async function askByCommand(
  scene: Scene,
  shell: number,
  orders: Order[],
  words: Record<string, string>,
): Promise<Call[]> {
  const calls: Call[] = []
  const nowMs = (): number => Number(process.hrtime.bigint()) / 1e6
  for (const order of orders) {
    const {op, source} = order
    const from = nowMs()
    const {stdout} = await scene.run([...argsOf(order), '--json'])
    const {outcome, goal, digest, error} = JSON.parse(stdout) as Printed
    const word = op === 'fetch' || op === 'replace' ? (outcome ?? '') : 'ok'
    const isPlain = op === 'remove' || op === 'cleanup'
    const result = error?.code ?? (isPlain ? 'ok' : `${word} ${goal} ${words[digest] ?? digest}`)
    calls.push({shell, op, ...(source ? {source: source.word} : {}), from, to: nowMs(), result})
  }
  return calls
}

/** Waits until nothing is to be done, and says what is there. */
async function settled(scene: Scene, words: Record<string, string>): Promise<Known> {
  await until(
    'all runs to be over',
    () =>
      query(scene, "select 1 from runs where status in ('pending', 'running', 'waiting')")
        .length === 0,
  )
  const [one] = imagesOf(scene)
  if (one && one.state !== one.goal) throw new Error(`it is ${one.state}, short of ${one.goal}`)
  return one && {source: words[one.digest] ?? one.digest, goal: one.goal}
}

function explain(round: number, calls: Call[], before: Known, after: Known): string {
  const first = Math.min(...calls.map(({from}) => from))
  const lines = calls.map(
    ({shell, op, source = '', from, to, result}) =>
      `shell ${shell} ${(from - first).toFixed(1)} … ${(to - first).toFixed(1)} ms ${op} ${source}: ${result}`,
  )
  const known = (one: Known): string => JSON.stringify(one ?? 'nothing')
  return [
    `no legal order in round ${round}, from ${known(before)} to ${known(after)}`,
    ...lines,
  ].join('\n')
}
