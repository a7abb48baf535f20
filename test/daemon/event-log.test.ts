import {expect} from 'chai'
import {errorToJson, fail} from '../../src/core/errors.ts'
import type {ImageName, NodeId, RunId} from '../../src/core/ids.ts'
import type {RunEvent, RunEventKind} from '../../src/core/image.ts'
import {eventLogger} from '../../src/daemon/event-log.ts'
import {makeLogger} from '../../src/daemon/logger.ts'

const kinds = ['transition', 'retry', 'failed', 'held', 'mended', 'canceled', 'removed'] as const

function event(kind: RunEventKind, more: Partial<RunEvent> = {}): RunEvent {
  return {
    seq: 1,
    at: 0,
    run: '01RUN' as RunId,
    image: 'web' as ImageName,
    node: 'n1' as NodeId,
    kind,
    step: 'download',
    attempt: 2,
    ...more,
  }
}

function logged(...events: RunEvent[]): Record<string, unknown>[] {
  const lines: string[] = []
  const stream = {write: (text: string) => void lines.push(text)}
  const log = eventLogger(makeLogger({logLevel: 'debug', logFormat: 'json'}, stream))
  for (const one of events) log(one)
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>)
}

describe('the history of runs in the log', () => {
  it('carries run, image, step and attempt on every line', () => {
    const lines = logged(...kinds.map((kind) => event(kind)))
    expect(lines).to.have.length(kinds.length)
    for (const line of lines)
      expect(line).to.include({run_id: '01RUN', image: 'web', step: 'download', attempt: 2})
  })

  it('takes the level by who has to act', () => {
    const levels = logged(...kinds.map((kind) => event(kind))).map((line) => line['level'])
    expect(levels).to.deep.equal(['info', 'warn', 'error', 'warn', 'warn', 'info', 'info'])
  })

  it('says of a transition whence, whither, how long and what the step reports', () => {
    const [line] = logged(
      event('transition', {
        from: 'DOWNLOADING',
        to: 'DOWNLOADED',
        durationMs: 5,
        detail: {downloaded_bytes: 7},
      }),
    )
    expect(line).to.include({
      from: 'DOWNLOADING',
      to: 'DOWNLOADED',
      duration_ms: 5,
      downloaded_bytes: 7,
    })
  })

  it('says of a failure its code, words and advice, and of a retry when it is due', () => {
    const error = errorToJson(fail('source_stalled', {url: 'http://u:secret@h/', idleMs: 5}))
    const [failed, retry] = logged(event('failed', {error}), event('retry', {error, dueAt: 1000}))
    expect(failed).to.include({code: 'source_stalled', hint: error.hint})
    expect(failed?.['error']).to.be.a('string').that.does.not.contain('secret')
    expect(retry).to.include({code: 'source_stalled', due_at: '1970-01-01T00:00:01.000Z'})
  })
})
