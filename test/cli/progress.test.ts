import {expect} from 'chai'
import {moveOf, phasesOf, type ProgressView} from '../../src/cli/board.ts'
import {openProgress, progressMode, type ProgressMode} from '../../src/cli/progress.ts'
import {openStreamView} from '../../src/cli/stream-view.ts'
import type {Clock} from '../../src/core/clock.ts'
import type {ImageName, NodeId, RunId} from '../../src/core/ids.ts'
import type {FollowEvent, Goal, ImageState, RunEvent} from '../../src/core/image.ts'
import {FakeTerminal} from '../support/fake-terminal.ts'

const image = 'web' as ImageName
const run = '01M83Q6E15N8ZFK9E2DBRM513V' as RunId
const start = Date.UTC(2026, 10, 20)

const event = (fields: Partial<RunEvent> & Pick<RunEvent, 'kind'>): FollowEvent => ({
  kind: 'event',
  event: {seq: 1, at: start, run, image, node: 'n' as NodeId, attempt: 1, ...fields},
})
const transition = (step: string, to: RunEvent['to'], more: Partial<RunEvent> = {}): FollowEvent =>
  event({kind: 'transition', step, ...(to === undefined ? {} : {to}), ...more})
const progress = (
  step: string,
  doneBytes: number,
  totalBytes: number,
  afterMs: number,
): FollowEvent => ({
  kind: 'progress',
  image,
  run,
  step,
  progress: {doneBytes, totalBytes, at: start + afterMs},
})

const MiB = 1024 ** 2
const wholeLife: FollowEvent[] = [
  transition('begin', 'DOWNLOADING'),
  progress('download', 0, 40 * MiB, 0),
  progress('download', 10 * MiB, 40 * MiB, 1000),
  transition('download', 'DOWNLOADED', {durationMs: 4000, detail: {size_bytes: 40 * MiB}}),
  transition('begin_unpack', 'UNPACKING'),
  progress('unpack', 20 * MiB, 40 * MiB, 5000),
  transition('unpack', 'UNPACKED', {detail: {entries: 1234, warnings: 0, format: 'gzip'}}),
  transition('publish', 'STORED'),
  transition('prepare', 'ACTIVATING'),
  transition('mount', 'ACTIVE'),
]
const refusal = {
  code: 'source_unavailable',
  message: 'cannot read http://x/: status 503\u001b[2J',
  hint: 'Wait.',
  details: {},
}

class FakeClock implements Clock {
  at = start
  now(): number {
    return this.at
  }
  steady(): number {
    return this.at
  }
  sleep(): Promise<void> {
    return Promise.resolve()
  }
}

async function show(
  mode: ProgressMode,
  events: FollowEvent[],
  o: {state?: ImageState; goal?: Goal; wasStopped?: boolean} = {},
): Promise<FakeTerminal> {
  const terminal = new FakeTerminal()
  const clock = new FakeClock()
  const view: ProgressView = await openProgress({
    mode,
    stream: terminal.stream,
    clock,
    status: {state: o.state ?? 'NEW', goal: o.goal ?? 'ACTIVE'},
  })
  for (const e of events) {
    if (e.kind === 'progress') clock.at = e.progress.at
    view.onEvent(e)
    // A turn for listr2, which goes from task to task by promises.
    await new Promise((resolve) => setTimeout(resolve, mode === 'terminal' ? 15 : 0))
  }
  await view.close(o.wasStopped ? {wasStopped: true} : undefined)
  return terminal
}

/** The last frame: what stays on the terminal. */
const lastFrame = (terminal: FakeTerminal, lines: number): string[] =>
  terminal.text.trimEnd().split('\n').slice(-lines)

describe('the way of showing progress', () => {
  it('is chosen by who reads', () => {
    const no = {isJson: false, isQuiet: false, isTerminal: false}
    expect(progressMode(no)).to.equal('lines')
    expect(progressMode({...no, isTerminal: true})).to.equal('terminal')
    expect(progressMode({...no, isTerminal: true, isQuiet: true})).to.equal('silent')
    expect(progressMode({isJson: true, isTerminal: true, isQuiet: true})).to.equal('json')
  })
})

describe('phases', () => {
  it('are those between where the image is and its goal', () => {
    expect(phasesOf({state: 'NEW', goal: 'ACTIVE'})).to.deep.equal([
      'download',
      'unpack',
      'store',
      'activate',
    ])
    expect(phasesOf({state: 'UNPACKING', goal: 'STORED'})).to.deep.equal(['unpack', 'store'])
    expect(phasesOf({state: 'STORED', goal: 'ACTIVE'})).to.deep.equal(['activate'])
    expect(phasesOf({state: 'ACTIVE', goal: 'STORED'})).to.deep.equal(['unmount'])
    expect(phasesOf({state: 'ACTIVE', goal: 'REMOVED'})).to.deep.equal(['unmount', 'erase'])
    expect(phasesOf({state: 'FAILED', goal: 'REMOVED'})).to.deep.equal(['erase'])
    expect(phasesOf({state: 'ACTIVE', goal: 'ACTIVE'})).to.deep.equal([])
  })

  it('end with the transition of their last step', () => {
    expect(moveOf(transition('begin', 'DOWNLOADING'))).to.deep.equal({
      kind: 'working',
      phase: 'download',
    })
    expect(moveOf(transition('download', 'DOWNLOADED'))).to.deep.equal({
      kind: 'ended',
      phase: 'download',
    })
    expect(moveOf(event({kind: 'removed', step: 'erase', to: 'REMOVED'}))).to.deep.equal({
      kind: 'ended',
      phase: 'erase',
    })
    expect(moveOf(event({kind: 'failed', step: 'mount'}))).to.deep.equal({
      kind: 'failed',
      phase: 'activate',
    })
    expect(moveOf(event({kind: 'held', step: 'prepare'}))).to.deep.equal({kind: 'held'})
    expect(moveOf(transition('a_step_of_tomorrow', 'ACTIVE'))).to.deep.equal({kind: 'none'})
  })
})

describe('progress in lines', () => {
  it('is a line a state, and some between', async () => {
    const {drawn} = await show('lines', wholeLife)
    expect(drawn.trimEnd().split('\n')).to.deep.equal([
      'web: DOWNLOADING',
      'web: download 10.0 MiB of 40.0 MiB (25 %)  10.0 MiB/s  3 s left',
      'web: DOWNLOADED (size 40.0 MiB, 4.0 s)',
      'web: UNPACKING',
      'web: unpack 20.0 MiB of 40.0 MiB (50 %)',
      'web: UNPACKED (entries 1,234, format gzip)',
      'web: STORED',
      'web: ACTIVATING',
      'web: ACTIVE',
    ])
  })

  it('tells of retries, failures and being held, with harmless text', async () => {
    const {drawn} = await show('lines', [
      event({kind: 'retry', step: 'download', dueAt: start + 1500, error: refusal}),
      event({kind: 'failed', step: 'download', from: 'DOWNLOADING', error: refusal}),
      event({kind: 'held', from: 'STORED', error: {...refusal, message: 'no overlayfs'}}),
    ])
    expect(drawn.trimEnd().split('\n')).to.deep.equal([
      'web: attempt 1 at download failed, next in 1.5 s: cannot read http://x/: status 503\\u001b[2J',
      'web: FAILED from DOWNLOADING: cannot read http://x/: status 503\\u001b[2J',
      'web: stays STORED: no overlayfs',
    ])
  })

  it('is nothing at all when it is to be silent', async () => {
    expect((await show('silent', wholeLife)).drawn).to.equal('')
  })
})

describe('progress in JSON', () => {
  it('is one object a line in snake case, with rate and time left', async () => {
    const {drawn} = await show('json', wholeLife)
    const lines = drawn.trimEnd().split('\n')
    const objects = lines.map((line) => JSON.parse(line) as Record<string, unknown>)
    expect(objects).to.have.length(wholeLife.length)
    expect(objects[2]).to.deep.equal({
      kind: 'progress',
      image: 'web',
      run,
      step: 'download',
      progress: {
        done_bytes: 10 * MiB,
        total_bytes: 40 * MiB,
        at: new Date(start + 1000).toISOString(),
      },
      bytes_per_second: 10 * MiB,
      left_ms: 3000,
    })
    expect(objects[3]).to.have.nested.property('event.duration_ms', 4000)
    expect(objects[3]).to.have.nested.property('event.detail.size_bytes', 40 * MiB)
  })
})

describe('progress on a terminal', () => {
  it('draws the phases, the bytes while they flow, and leaves what was done', async () => {
    const terminal = await show('terminal', wholeLife)
    expect(terminal.text).to.contain('10.0 MiB of 40.0 MiB (25 %)  10.0 MiB/s  3 s left')
    const frame = lastFrame(terminal, 4)
    expect(frame[0]).to.match(/^\S+ Download: DOWNLOADED \(size 40\.0 MiB, 4\.0 s\)$/)
    expect(frame[1]).to.match(/^\S+ Unpack: UNPACKED \(entries 1,234, format gzip\)$/)
    expect(frame[2]).to.match(/^\S+ Store: STORED$/)
    expect(frame[3]).to.match(/^\S+ Activate: ACTIVE$/)
    // The cursor is shown again.
    expect(terminal.drawn).to.match(/\u001b\[\?25h/)
  })

  it('keeps every line within the width of the terminal', async () => {
    const long = {...refusal, message: 'x'.repeat(500)}
    const terminal = await show('terminal', [
      event({kind: 'retry', step: 'download', dueAt: start + 1000, error: long}),
      event({kind: 'failed', step: 'download', from: 'DOWNLOADING', error: long}),
    ])
    for (const line of terminal.text.split('\n')) expect(line.length).to.be.at.most(100)
    expect(lastFrame(terminal, 4)[0]).to.contain('Download: FAILED from DOWNLOADING: xxx')
  })

  it('says of phases that had nothing to do that they had not', async () => {
    const terminal = await show('terminal', [
      transition('publish', 'STORED'),
      transition('mount', 'ACTIVE'),
    ])
    const frame = lastFrame(terminal, 4)
    expect(frame[0]).to.contain('Download: nothing to do')
    expect(frame[1]).to.contain('Unpack: nothing to do')
    expect(frame[2]).to.contain('Store: STORED')
    expect(frame[3]).to.contain('Activate: ACTIVE')
  })

  it('stops at the phase at work when the wait ends early', async () => {
    const terminal = await show('terminal', wholeLife.slice(0, 3), {wasStopped: true})
    expect(lastFrame(terminal, 4)[0]).to.contain('Download: stopped waiting')
  })

  it('says why an image is held', async () => {
    const held = event({kind: 'held', from: 'STORED', error: {...refusal, message: 'no overlayfs'}})
    const terminal = await show('terminal', [held], {state: 'STORED'})
    expect(lastFrame(terminal, 1)[0]).to.contain('Activate: stays STORED: no overlayfs')
  })

  it('draws on a terminal that does not know its size', async () => {
    const terminal = new FakeTerminal()
    terminal.columns = 0
    terminal.rows = 0
    const view = await openProgress({
      mode: 'terminal',
      stream: terminal.stream,
      clock: new FakeClock(),
      status: {state: 'STORED', goal: 'ACTIVE'},
    })
    view.onEvent(transition('mount', 'ACTIVE'))
    await view.close()
    expect(terminal.text).to.contain('Activate: ACTIVE')
  })
})

describe('progress of a stream', () => {
  const digest = 'ab'.repeat(32)

  it('is a bar on a terminal that is gone at the end', async () => {
    const terminal = new FakeTerminal()
    const view = await openStreamView({
      mode: 'terminal',
      stream: terminal.stream,
      clock: new FakeClock(),
      what: 'verify',
    })
    view.onProgress({digest, doneBytes: 0, totalBytes: 10 * MiB})
    view.onProgress({digest, doneBytes: 5 * MiB, totalBytes: 10 * MiB})
    view.close()
    expect(terminal.text).to.contain('█')
    expect(terminal.text).to.contain('5.0 MiB of 10.0 MiB (50 %)')
    expect(terminal.text).to.contain('sha256:abababababab')
  })

  it('is lines elsewhere, and nothing when silent', async () => {
    for (const mode of ['lines', 'silent', 'json'] as const) {
      const terminal = new FakeTerminal()
      const view = await openStreamView({
        mode,
        stream: terminal.stream,
        clock: new FakeClock(),
        what: 'verify',
      })
      view.onProgress({digest, doneBytes: 0, totalBytes: 10 * MiB})
      view.onProgress({digest, doneBytes: 5 * MiB, totalBytes: 10 * MiB})
      view.close()
      if (mode === 'lines') expect(terminal.drawn).to.equal('verify: 5.0 MiB of 10.0 MiB (50 %)\n')
      else if (mode === 'silent') expect(terminal.drawn).to.equal('')
      else {
        expect(JSON.parse(terminal.drawn)).to.include({
          kind: 'progress',
          step: 'verify',
          done_bytes: 5 * MiB,
        })
      }
    }
  })

  it('closes quietly when no byte ever flowed', async () => {
    const terminal = new FakeTerminal()
    const view = await openStreamView({
      mode: 'terminal',
      stream: terminal.stream,
      clock: new FakeClock(),
      what: 'verify',
    })
    view.close()
    expect(terminal.drawn).to.equal('')
  })
})
