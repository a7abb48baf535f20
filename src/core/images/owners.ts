/**
 * Processes that work on runs: who they are, and whether they still live. The runs of a dead one are free at once;
 * only of one whose fate cannot be known is the lease waited for.
 */
import {readFileSync, readlinkSync} from 'node:fs'
import {hostname} from 'node:os'
import {addOwner, listOwners, removeOwner, touchOwner, type OwnerRow} from '../db/owners.ts'
import {freeRunsOf} from '../db/runs.ts'
import {systemCode} from '../errors.ts'
import {newUlid, type NodeId, type OwnerId} from '../ids.ts'
import type {ImagesContext} from './context.ts'

/** What judging owners takes. */
export type OwnersContext = Pick<ImagesContext, 'database' | 'clock' | 'node' | 'log' | 'settings'>

type Identity = Pick<OwnerRow, 'boot_id' | 'pid_namespace' | 'pid' | 'pid_start'>

function readText(path: string): string {
  try {
    return readFileSync(path, 'latin1').trim()
  } catch {
    return ''
  }
}

function pidNamespace(): string {
  try {
    return readlinkSync('/proc/self/ns/pid')
  } catch {
    return ''
  }
}

/** Start time of a process in clock ticks since boot, or undefined when there is no such process (or only its corpse). */
function startOf(pid: number): string | undefined {
  const text = readText(`/proc/${pid}/stat`)
  // The second field is the program's name in parentheses and may hold anything. Source: proc(5).
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const [state, start] = [fields[0], fields[19]]
  return start === undefined || state === 'Z' || state === 'X' ? undefined : start
}

/** Whether a process is there of which nothing can be read: another user's, where /proc is mounted with hidepid. */
function isHidden(pid: number): boolean {
  if (readText(`/proc/${pid}/stat`) !== '') return false
  try {
    process.kill(pid, 0)
  } catch (error) {
    return systemCode(error) === 'EPERM'
  }
  return true
}

export function ownIdentity(): Identity {
  return {
    boot_id: readText('/proc/sys/kernel/random/boot_id'),
    pid_namespace: pidNamespace(),
    pid: process.pid,
    pid_start: startOf(process.pid) ?? '',
  }
}

export type Liveness = 'alive' | 'dead' | 'unknown'

/** Whether the process that `owner` describes still lives, as far as `self` can tell. */
export function livenessOf(owner: Identity, self: Identity): Liveness {
  if (owner.boot_id === '' || self.boot_id === '') return 'unknown'
  if (owner.boot_id !== self.boot_id) return 'dead'
  if (owner.pid_namespace !== self.pid_namespace || owner.pid_namespace === '') return 'unknown'
  if (startOf(owner.pid) === owner.pid_start) return 'alive'
  return isHidden(owner.pid) ? 'unknown' : 'dead'
}

/** This process as an owner of runs, from `register` to `leave`. */
export class Owner {
  readonly id: OwnerId
  readonly #row: OwnerRow
  readonly #images: ImagesContext

  private constructor(images: ImagesContext, row: OwnerRow) {
    this.id = row.id
    this.#row = row
    this.#images = images
  }

  static async register(images: ImagesContext, kind: OwnerRow['kind']): Promise<Owner> {
    const now = images.clock.now()
    const row: OwnerRow = {
      id: newUlid(now) as OwnerId,
      node: images.node,
      kind,
      hostname: hostname(),
      ...ownIdentity(),
      started_at: now,
      heartbeat_at: now,
    }
    await addOwner(images.database.db, row)
    return new Owner(images, row)
  }

  /** Says that this process lives. An owner that slept so long that it was taken for dead enters itself again. */
  async heartbeat(): Promise<void> {
    const now = this.#images.clock.now()
    const {fast} = this.#images.database
    if (!(await touchOwner(fast, this.id, now)))
      await addOwner(fast, {...this.#row, heartbeat_at: now})
  }

  /** Gives back what is still held, and goes. */
  async leave(): Promise<void> {
    const {database, clock} = this.#images
    await database.db.transaction().execute(async (trx) => {
      await freeRunsOf(trx, this.id, clock.now(), {mayStillWork: true})
      await removeOwner(trx, this.id)
    })
  }
}

/** How many leases of silence make an owner of unknown fate forgotten. */
const forgottenAfterLeases = 10

/** An owner that works no more, or of whom nothing was heard for so long that it is forgotten. */
export type GoneOwner = {owner: OwnerRow; isDead: boolean}

/** Owners of this node that are dead or forgotten. Those of other hosts are theirs to judge. */
export async function findGoneOwners(images: OwnersContext): Promise<GoneOwner[]> {
  const {database, clock, node} = images
  const self = ownIdentity()
  return (await listOwners(database.db, node)).flatMap((owner) => {
    const liveness = livenessOf(owner, self)
    if (liveness === 'alive') return []
    // Either way: a heartbeat of the future is from before the clock was set back.
    const silentMs = Math.abs(clock.now() - owner.heartbeat_at)
    if (liveness === 'unknown' && silentMs < images.settings().leaseMs * forgottenAfterLeases)
      return []
    return [{owner, isDead: liveness === 'dead'}]
  })
}

/** Frees the runs of an owner that is gone, and forgets it. Returns how many runs were freed. */
export async function freeGoneOwner(
  images: OwnersContext,
  {owner, isDead}: GoneOwner,
): Promise<number> {
  const {database, clock, log} = images
  return await database.db.transaction().execute(async (trx) => {
    // Only of a process known to be dead; a silent one's lease runs out by itself.
    const freed = isDead ? await freeRunsOf(trx, owner.id, clock.now(), {mayStillWork: false}) : 0
    await removeOwner(trx, owner.id)
    if (freed > 0)
      log.warn({owner: owner.id, pid: owner.pid, runs: freed}, 'freed the runs of a dead process')
    return freed
  })
}

/** Frees the runs of owners on this node that are dead, and forgets them. */
export async function freeDeadOwners(images: ImagesContext): Promise<void> {
  for (const gone of await findGoneOwners(images)) await freeGoneOwner(images, gone)
}

/** Whether a worker on this node is there to take runs: alive as a process and not silent. */
export async function hasLiveWorker(
  images: ImagesContext,
  node: NodeId = images.node,
): Promise<boolean> {
  const self = ownIdentity()
  const silentMsMax = Math.max(images.settings().leaseMs, 3000)
  const owners = await listOwners(images.database.db, node)
  return owners.some(
    (owner) =>
      owner.kind === 'worker' &&
      livenessOf(owner, self) !== 'dead' &&
      Math.abs(images.clock.now() - owner.heartbeat_at) <= silentMsMax,
  )
}

/** The first of some owners, of any host, that may be at work; in words. */
export function findAtWork(
  owners: readonly OwnerRow[],
  now: number,
  leaseMs: number,
): string | undefined {
  const self = ownIdentity()
  const found = owners.find((owner) => {
    const liveness = livenessOf(owner, self)
    // Another boot is also what every other host has: only its silence tells of that.
    if (liveness === 'dead' && owner.hostname === hostname()) return false
    return liveness === 'alive' || now - owner.heartbeat_at <= Math.max(leaseMs, 3000)
  })
  return found && `a ${found.kind} (process ${found.pid} on ${found.hostname})`
}
