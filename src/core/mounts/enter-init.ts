/**
 * The first process of the namespaces in which `imgstore run` runs a program. A program of its own: started by
 * enter.ts through unshare(1), told what to do by one line on descriptor 3, and gone, with everything in its
 * namespaces, when that line of communication closes.
 *
 * The danger: it is root of the host in an image's tree. It opens nothing by a path of the image, starts the
 * program with few capabilities, and must not be steered by the program: no inspector (--disable-sigusr1), no
 * environment of the program, no module loaded after the pivot.
 */
import {spawn, spawnSync, type ChildProcess} from 'node:child_process'
import {mkdirSync, readFileSync, realpathSync, writeFileSync} from 'node:fs'
import {Socket} from 'node:net'
import {constants} from 'node:os'
import {join} from 'node:path'
import {systemCode} from '../errors.ts'
import {mount, MS_NODEV, MS_NOEXEC, MS_NOSUID} from '../syscalls/mount.ts'
import {
  dropCapabilitiesOfChildren,
  forbidTerminalInput,
  reap,
  setHostname,
} from '../syscalls/namespace.ts'
import {keptCapabilities, type EnterPlan, type EnterReport} from './enter-plan.ts'
import {checkRoot, enterRoot, UnfitImage} from './enter-root.ts'
import {checkUserLists, findUser} from './enter-user.ts'
import {programEnv} from './programs.ts'
import {runcConfig} from './runc-config.ts'

const parent = new Socket({fd: 3, readable: true, writable: true})
let child: ChildProcess | undefined
/** Ends what killing the processes does not: runc's control groups. */
let takeAway = (): void => undefined
let received = ''

parent.setEncoding('utf8')
parent.on('data', (text: string) => {
  received += text
  for (;;) {
    const end = received.indexOf('\n')
    if (end < 0) return
    const line = received.slice(0, end)
    received = received.slice(end + 1)
    if (child === undefined) begin(JSON.parse(line) as EnterPlan)
    else child.kill(line as NodeJS.Signals)
  }
})
// The parent is gone: as this is the first process, its end is the end of all others here.
parent.on('close', () => {
  takeAway()
  process.exit(137)
})
parent.on('error', () => undefined) // 'close' follows

// Orphans of the program become children of the first process; Node waits for none but its own child.
process.on('SIGCHLD', () => {
  let children: string
  try {
    children = readFileSync('/proc/1/task/1/children', 'utf8')
  } catch {
    return // a kernel without this file: ended orphans stay on its books until the program ends
  }
  for (const pid of children.split(' ').map(Number)) if (pid > 0 && pid !== child?.pid) reap(pid)
})

function leave(report: EnterReport, exitCode: number): void {
  parent.end(`${JSON.stringify(report)}\n`, () => process.exit(exitCode))
}

function begin(plan: EnterPlan): void {
  try {
    const user = findUser(plan.rootDir, plan.user)
    const env = {...plan.env}
    env['HOME'] ??= user.home
    if (plan.runc === undefined) startHere({...plan, env}, user)
    else startRunc({...plan, env}, user, plan.runc)
  } catch (error) {
    if (error instanceof UnfitImage) leave({problem: 'command_failed', reason: error.message}, 126)
    else leave({problem: 'internal', reason: String(error)}, 126)
  }
}

type User = ReturnType<typeof findUser>

function startHere(plan: EnterPlan, user: User): void {
  setHostname(plan.hostname)
  enterRoot(plan.rootDir)
  process.setgroups?.([])
  dropCapabilitiesOfChildren(new Set(Object.values(keptCapabilities)))
  forbidTerminalInput()
  const [program = '', ...parameters] = plan.command
  child = spawn(program, parameters, {
    cwd: plan.cwd,
    env: plan.env,
    stdio: 'inherit',
    ...(user.uid === 0 && user.gid === 0 ? {} : {uid: user.uid, gid: user.gid}),
  })
  child.once('spawn', () => parent.write(`${JSON.stringify({started: true})}\n`))
  child.once('error', (error) => {
    if (child?.pid === undefined)
      leave({problem: 'command_failed', reason: startProblem(error, plan)}, 127)
  })
  child.once('exit', (code, signal) => {
    const exitCode = signal === null ? (code ?? 1) : 128 + constants.signals[signal]
    leave({exitCode, ...(signal === null ? {} : {signal})}, exitCode)
  })
}

function startProblem(error: Error, plan: EnterPlan): string {
  switch (systemCode(error)) {
    case 'ENOENT':
      return `no such program in the image, or no such directory ${plan.cwd}`
    case 'EACCES':
      return 'it may not be executed (its mode, its directory, or an image mounted noexec)'
    case 'ENOEXEC':
      return 'it is not a program for this machine'
    default:
      return error.message
  }
}

/** Starts runc with its bundle on a file system that only exists here, so that nothing is ever left behind. */
function startRunc(plan: EnterPlan, user: User, runc: {program: string; id: string}): void {
  checkRoot(plan.rootDir)
  checkUserLists(plan.rootDir)
  const dir = coveredDir(plan.rootDir)
  mount('tmpfs', dir, 'tmpfs', MS_NOSUID | MS_NODEV | MS_NOEXEC, 'mode=700,size=16m')
  const bundle = join(dir, 'bundle')
  mkdirSync(bundle)
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(runcConfig(plan, user)))
  const log = join(dir, 'log.json')
  const state = ['--root', join(dir, 'state')]
  takeAway = () => {
    spawnSync(runc.program, [...state, 'delete', '--force', runc.id], {env: programEnv})
  }
  child = spawn(
    runc.program,
    [...[...state, '--log', log, '--log-format', 'json'], ...['run', '--bundle', bundle, runc.id]],
    {env: programEnv, stdio: 'inherit'},
  )
  child.once('spawn', () => parent.write(`${JSON.stringify({started: true})}\n`))
  child.once('error', (error) => leave({problem: 'host_lacks', reason: error.message}, 127))
  child.once('exit', (code, signal) => {
    const exitCode = signal === null ? (code ?? 1) : 128 + constants.signals[signal]
    const reason = exitCode === 0 ? undefined : runcProblem(log)
    if (reason === undefined) leave({exitCode}, exitCode)
    else leave({problem: 'command_failed', reason}, 127)
  })
}

// A directory of the host that can be covered in this mount namespace without hiding the image.
function coveredDir(rootDir: string): string {
  const real = realpathSync(rootDir)
  const found = ['/run', '/tmp', '/mnt'].find((dir) => !real.startsWith(`${dir}/`) && real !== dir)
  return found ?? '/run'
}

/** Why runc could not start the program; undefined when it did and the program itself failed. */
function runcProblem(log: string): string | undefined {
  let text: string
  try {
    text = readFileSync(log, 'utf8')
  } catch {
    return undefined
  }
  for (const line of text.split('\n').reverse()) {
    if (line === '') continue
    const entry = JSON.parse(line) as {level?: string; msg?: string}
    if (entry.level === 'error') return entry.msg
  }
  return undefined
}
