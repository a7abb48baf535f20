/** Says what the host and the store can do, and what a person should mend. */
import {access, constants, statfs} from 'node:fs/promises'
import {listEvents} from '../db/events.ts'
import {countByState} from '../db/images.ts'
import {fromSystemError, systemCode, toImgstoreError} from '../errors.ts'
import type {ErofsSupport} from '../mounts/erofs.ts'
import type {HostCheck} from '../mounts/host-check.ts'
import {settingKeys, settingTable, shownValue, type SettingSpec} from '../settings.ts'
import type {MaintenanceContext} from './context.ts'

export type DoctorCheck = {
  name: string
  status: 'ok' | 'warn' | 'fail'
  detail: string
  hint?: string
}
export type DoctorSetting = {
  key: string
  value: string
  origin: string
  env: string[]
  flag?: string
}
export type DoctorReport = {isOk: boolean; checks: DoctorCheck[]; settings: DoctorSetting[]}

/** Below this share of free space the doctor warns. */
const lowSpaceShare = 0.05

export async function doctor(
  maintenance: MaintenanceContext,
  checkHost: () => Promise<{host: HostCheck; erofs: ErofsSupport}>,
): Promise<DoctorReport> {
  const {host, erofs} = await checkHost()
  const checks = [
    checkProgram(),
    await checkStore(maintenance),
    checkDatabase(maintenance),
    await checkSpace(maintenance),
    await checkClock(maintenance),
    await checkWorker(maintenance),
    ...hostChecks(host),
    checkErofs(erofs),
  ]
  return {
    isOk: checks.every((check) => check.status !== 'fail'),
    checks,
    settings: describeSettings(maintenance),
  }
}

function checkProgram(): DoctorCheck {
  return {
    name: 'program',
    status: 'ok',
    detail: `Node ${process.versions.node} on ${process.platform}/${process.arch}`,
  }
}

async function checkStore(maintenance: MaintenanceContext): Promise<DoctorCheck> {
  const {store} = maintenance.settings()
  const name = 'store'
  const detail = `${store} (${maintenance.origins.store})`
  try {
    await access(store, constants.W_OK)
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') {
      const known = fromSystemError(error, store, 'write to')
      return {name, status: 'fail', detail: `${detail}: ${known.message}`, hint: known.hint}
    }
  }
  return {name, status: 'ok', detail}
}

function checkDatabase(maintenance: MaintenanceContext): DoctorCheck {
  const {path} = maintenance.database
  if (path === ':memory:') {
    return {name: 'database', status: 'ok', detail: 'there is none yet; the first fetch makes it'}
  }
  try {
    const words = maintenance.database.quickCheck()
    if (words === 'ok') return {name: 'database', status: 'ok', detail: `${path} is sound`}
    return {
      name: 'database',
      status: 'fail',
      detail: `${path}: ${words}`,
      hint: 'Bring a backup back: `imgstore restore FILE --force`. If only an index is damaged, `imgstore doctor --repair` mends it.',
    }
  } catch (error) {
    const known = toImgstoreError(error)
    return {name: 'database', status: 'fail', detail: known.message, hint: known.hint}
  }
}

/** Free and whole space of the file system that holds `path`, in bytes. */
async function spaceAt(
  path: string,
): Promise<{freeBytes: number; totalBytes: number; freeInodes: number}> {
  const found = await statfs(path)
  return {
    freeBytes: found.bavail * found.bsize,
    totalBytes: found.blocks * found.bsize,
    freeInodes: found.ffree,
  }
}

async function checkSpace(maintenance: MaintenanceContext): Promise<DoctorCheck> {
  const name = 'space'
  try {
    const space = await spaceAt(maintenance.layout.store)
    const detail = `${formatGiB(space.freeBytes)} of ${formatGiB(space.totalBytes)} free, ${space.freeInodes} inodes free`
    if (space.freeBytes >= space.totalBytes * lowSpaceShare) return {name, status: 'ok', detail}
    return {name, status: 'warn', detail, hint: 'Free some: `imgstore cleanup`, or remove images.'}
  } catch {
    return {name, status: 'ok', detail: 'the store does not exist yet'}
  }
}

const formatGiB = (bytes: number): string => `${(bytes / 1024 ** 3).toFixed(1)} GiB`

/** Times in the database that lie ahead mean that the clock was set back: leases and waits would be off. */
async function checkClock(maintenance: MaintenanceContext): Promise<DoctorCheck> {
  const {database, node, clock} = maintenance
  const [last] = await listEvents(database.db, {node, limit: 1})
  const aheadMs = (last?.at ?? 0) - clock.now()
  const detail = new Date(clock.now()).toISOString()
  if (aheadMs <= 5000) return {name: 'clock', status: 'ok', detail}
  const ahead = `the last event in the database is ${Math.round(aheadMs / 1000)} s ahead of the clock (${detail})`
  return {
    name: 'clock',
    status: 'warn',
    detail: ahead,
    hint: 'Set the clock right (for instance by NTP).',
  }
}

async function checkWorker(maintenance: MaintenanceContext): Promise<DoctorCheck> {
  const isAlive = await maintenance.hasLiveWorker()
  const counts = await countByState(maintenance.database.db, maintenance.node)
  const images = counts.map(({state, count}) => `${count} ${state}`).join(', ') || 'no images'
  if (isAlive) return {name: 'worker', status: 'ok', detail: `a worker is alive; ${images}`}
  const hint =
    'Start one: `systemctl start imgstore-worker` or `imgstore worker`. Commands that wait work without.'
  return {name: 'worker', status: 'warn', detail: `no worker is alive; ${images}`, hint}
}

function hostChecks(host: HostCheck): DoctorCheck[] {
  return host.items.map((item) => ({
    name: item.name,
    status: item.ok ? 'ok' : 'warn',
    detail: item.detail,
    ...(item.ok ? {} : {hint: item.hint}),
  }))
}

function checkErofs(erofs: ErofsSupport): DoctorCheck {
  const name = 'backend erofs'
  if (erofs.ok) {
    const how = erofs.how === 'file' ? 'from files, without a loop device' : 'through loop devices'
    return {name, status: 'ok', detail: `a trial image was mounted ${how}; --backend auto takes it`}
  }
  const detail = `${erofs.reason}; --backend auto extracts instead`
  return {
    name,
    status: 'warn',
    detail,
    hint: 'It needs root and a kernel with EROFS (6.12 or newer is best).',
  }
}

function describeSettings(maintenance: MaintenanceContext): DoctorSetting[] {
  const settings = maintenance.settings()
  return settingKeys
    .filter((key) => !(settingTable[key] as SettingSpec).isHidden)
    .map((key) => {
      const spec: SettingSpec = settingTable[key]
      return {
        key,
        value: shownValue(spec, settings[key]),
        origin: maintenance.origins[key],
        env: [...(spec.env ?? [])],
        ...(spec.flag === undefined ? {} : {flag: spec.flag}),
      }
    })
}
