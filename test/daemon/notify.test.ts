import {expect} from 'chai'
import {setTimeout as sleep} from 'node:timers/promises'
import type {LogFields, Logger} from '../../src/core/log.ts'
import {
  makeNotifier,
  monotonicUsec,
  startWatchdog,
  watchdogUsecOf,
} from '../../src/daemon/notify.ts'
import {killReceivers, withNotifySocket} from '../support/notify-socket.ts'
import {requires} from '../support/requires.ts'
import {withTempDir} from '../support/temp-dir.ts'

function recordingLog(): Logger & {warnings: {fields: LogFields; message: string}[]} {
  const warnings: {fields: LogFields; message: string}[] = []
  return {
    warnings,
    error: () => undefined,
    warn: (fields, message) => void warnings.push({fields, message}),
    info: () => undefined,
    debug: () => undefined,
  }
}

describe('messages to systemd', () => {
  requires('program:systemd-notify', 'program:python3')
  afterEach(killReceivers)

  it('arrive whole and in order', () =>
    withTempDir((dir) =>
      withNotifySocket(dir, async (socket) => {
        const log = recordingLog()
        const notifier = makeNotifier({socket: socket.path, log})
        notifier.send('READY=1', 'STATUS=working')
        notifier.send('RELOADING=1', monotonicUsec())
        notifier.send('READY=1')
        notifier.send('STOPPING=1')
        await notifier.flush(10_000)
        await socket.waitFor('STOPPING=1')
        const lines = socket.received.map((message) => message.lines)
        expect(lines[1]?.[1]).to.match(/^MONOTONIC_USEC=\d+$/)
        expect(lines.map(([first]) => first)).to.deep.equal([
          'READY=1',
          'RELOADING=1',
          'READY=1',
          'STOPPING=1',
        ])
        expect(lines[0]).to.deep.equal(['READY=1', 'STATUS=working'])
        expect(log.warnings).to.deep.equal([])
      }),
    ))

  it('come, as root, in the name of the process itself, which systemd knows as the main one', function () {
    if (process.getuid?.() !== 0) this.skip()
    return withTempDir((dir) =>
      withNotifySocket(dir, async (socket) => {
        const notifier = makeNotifier({socket: socket.path, log: recordingLog()})
        notifier.send('READY=1')
        expect((await socket.waitFor('READY=1')).pid).to.equal(process.pid)
        await notifier.flush(10_000)
      }),
    )
  })

  it('hold no line break of their own, and only the newest status waits', () =>
    withTempDir((dir) =>
      withNotifySocket(dir, async (socket) => {
        const notifier = makeNotifier({socket: socket.path, log: recordingLog()})
        notifier.send('READY=1')
        notifier.send('STATUS=first')
        notifier.send('STATUS=second')
        notifier.send('STATUS=third\nREADY=0')
        await notifier.flush(10_000)
        const last = await socket.waitFor(/^STATUS=third/)
        expect(last.lines).to.deep.equal(['STATUS=third READY=0'])
        const statuses = socket.received.filter(({lines}) => lines[0]?.startsWith('STATUS='))
        expect(statuses.length).to.be.at.most(2)
      }),
    ))

  it('are said once to be impossible when the program is missing', () =>
    withTempDir(async (dir) => {
      const {PATH} = process.env
      const log = recordingLog()
      try {
        process.env['PATH'] = dir
        const notifier = makeNotifier({socket: `${dir}/none.sock`, log})
        notifier.send('READY=1')
        notifier.send('STOPPING=1')
        await notifier.flush(10_000)
        notifier.send('WATCHDOG=1')
        await notifier.flush(10_000)
      } finally {
        process.env['PATH'] = PATH
      }
      expect(log.warnings.map(({message}) => message)).to.deep.equal([
        'systemd is not told: the program is not installed',
      ])
    }))

  it('that are not taken are a warning with the reason', () =>
    withTempDir(async (dir) => {
      const log = recordingLog()
      const notifier = makeNotifier({socket: `${dir}/none.sock`, log})
      notifier.send('READY=1')
      await notifier.flush(10_000)
      expect(log.warnings).to.have.length(1)
      expect(log.warnings[0]?.fields['reason']).to.match(/No such file/)
    }))

  it('need no socket: outside systemd nothing is sent', async () => {
    const log = recordingLog()
    const notifier = makeNotifier({socket: undefined, log})
    notifier.send('READY=1')
    await notifier.flush(10_000)
    expect(log.warnings).to.deep.equal([])
  })
})

describe('the watchdog', () => {
  function counting(): {sent: string[]; send(...lines: string[]): void; flush(): Promise<void>} {
    const sent: string[] = []
    return {sent, send: (...lines) => void sent.push(...lines), flush: () => Promise.resolve()}
  }

  async function until(condition: () => boolean): Promise<void> {
    while (!condition()) await sleep(1)
  }

  it('speaks once for each interval in which the loop beat, and falls silent with it', async () => {
    const notifier = counting()
    const watchdog = startWatchdog({watchdogUsec: 20_000, notifier})
    try {
      watchdog.beat()
      watchdog.beat()
      await until(() => notifier.sent.length === 1)
      // The loop hangs from here on, while the timer goes on.
      await sleep(100)
      expect(notifier.sent).to.deep.equal(['WATCHDOG=1'])
      watchdog.beat()
      await until(() => notifier.sent.length === 2)
    } finally {
      watchdog.stop()
    }
  })

  it('is the business of the process that systemd means', () => {
    const {pid, ppid} = process
    expect(watchdogUsecOf({watchdogUsec: 5, watchdogPid: undefined})).to.equal(5)
    expect(watchdogUsecOf({watchdogUsec: 5, watchdogPid: pid})).to.equal(5)
    expect(watchdogUsecOf({watchdogUsec: 5, watchdogPid: ppid})).to.equal(undefined)
    expect(watchdogUsecOf({watchdogUsec: 0, watchdogPid: pid})).to.equal(undefined)
    expect(watchdogUsecOf({watchdogUsec: undefined, watchdogPid: pid})).to.equal(undefined)
  })

  it('never speaks for a loop that has not begun, nor after its end', async () => {
    const notifier = counting()
    const watchdog = startWatchdog({watchdogUsec: 2000, notifier})
    await sleep(30)
    watchdog.stop()
    watchdog.beat()
    await sleep(30)
    expect(notifier.sent).to.deep.equal([])
  })
})
