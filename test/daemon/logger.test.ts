import {expect} from 'chai'
import {fail} from '../../src/core/errors.ts'
import {makeLogger} from '../../src/daemon/logger.ts'

function capture(): {lines: string[]; write(text: string): void} {
  const lines: string[] = []
  return {lines, write: (text) => void lines.push(text)}
}

function parsed(line: string | undefined): Record<string, unknown> {
  return JSON.parse(line ?? '') as Record<string, unknown>
}

describe("the daemon's log", () => {
  it('writes one JSON object a line with the level as a word and the time in ISO 8601', () => {
    const out = capture()
    const log = makeLogger({logLevel: 'info', logFormat: 'json'}, out)
    log.info({run_id: '01A', size_bytes: 12}, 'step done')
    expect(out.lines).to.have.length(1)
    expect(out.lines[0]).to.match(/\n$/)
    const line = parsed(out.lines[0])
    expect(Object.keys(line)).to.deep.equal(['level', 'time', 'run_id', 'size_bytes', 'msg'])
    expect(line).to.include({level: 'info', run_id: '01A', size_bytes: 12, msg: 'step done'})
    expect(new Date(line['time'] as string).toISOString()).to.equal(line['time'])
  })

  it('takes JSON in a pipe and text on a terminal unless it is told which', () => {
    const forms = (
      [
        ['auto', false],
        ['auto', true],
        ['json', true],
        ['text', false],
      ] as const
    ).map(([logFormat, isTerminal]) => {
      const out = capture()
      makeLogger({logLevel: 'info', logFormat}, out, {isTerminal}).info({}, 'hello')
      return out.lines[0]?.startsWith('{') ? 'json' : 'text'
    })
    expect(forms).to.deep.equal(['json', 'text', 'json', 'text'])
  })

  for (const logFormat of ['json', 'text'] as const) {
    it(`says only what the level asks for, and follows a change of it (${logFormat})`, () => {
      const out = capture()
      const log = makeLogger({logLevel: 'warn', logFormat}, out)
      const all = (): void => {
        log.error({}, 'e')
        log.warn({}, 'w')
        log.info({}, 'i')
        log.debug({}, 'd')
      }
      const counts = (['warn', 'debug', 'error', 'silent', 'info'] as const).map((level) => {
        log.setLevel(level)
        const before = out.lines.length
        all()
        return out.lines.length - before
      })
      expect(counts).to.deep.equal([2, 4, 1, 0, 3])
    })

    it(`shows no secret of a URL, wherever it stands (${logFormat})`, () => {
      const out = capture()
      const log = makeLogger({logLevel: 'debug', logFormat}, out)
      const url = 'https://me:hunter2@host/a.tar?X-Amz-Signature=hunter2&part=1'
      const error = fail('source_unavailable', {url, reason: `GET ${url} failed`})
      log.warn({url, error, list: [{url}], text: `see ${url}, please`}, 'source failed')
      log.error({error: new Error(`cannot read ${url}`)}, 'bug')
      const text = out.lines.join('')
      expect(text).to.not.contain('hunter2')
      expect(text).to.contain('host/a.tar')
      expect(text).to.contain('part=1')
    })
  }

  it('writes an error as its code, message, hint and details', () => {
    const out = capture()
    const log = makeLogger({logLevel: 'info', logFormat: 'json'}, out)
    log.error({error: fail('image_not_found', {name: 'x'})}, 'request failed')
    const {error} = parsed(out.lines[0])
    expect(error).to.have.keys(['code', 'message', 'hint', 'details'])
    expect(error).to.include({code: 'image_not_found'})
  })

  it('keeps the stack of what must be a bug', () => {
    const out = capture()
    const log = makeLogger({logLevel: 'info', logFormat: 'json'}, out)
    log.error({error: new TypeError('oops')}, 'request failed')
    const {error} = parsed(out.lines[0]) as {error: {stack: string; message: string}}
    expect(error.message).to.equal('oops')
    expect(error.stack).to.contain('logger.test.ts')
  })

  it('survives fields that refer to themselves, and values that JSON has no form for', () => {
    for (const logFormat of ['json', 'text'] as const) {
      const out = capture()
      const loop: Record<string, unknown> = {big: 10n, call: () => 1, mark: Symbol('x')}
      loop['self'] = loop
      makeLogger({logLevel: 'info', logFormat}, out).info({loop}, 'odd')
      expect(out.lines[0]).to.contain('10')
    }
  })

  it('writes text that a person can read: time, level, sentence, fields', () => {
    const out = capture()
    const log = makeLogger({logLevel: 'info', logFormat: 'text'}, out)
    log.info({run_id: '01A', none: undefined, name: 'two words', sizes: [1, 2]}, 'step done')
    expect(out.lines[0]).to.match(
      /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info {2}step done run_id=01A name="two words" sizes=\[1,2\]\n$/,
    )
  })

  it('lets no field steer the terminal or forge a line', () => {
    const out = capture()
    const log = makeLogger({logLevel: 'info', logFormat: 'text'}, out)
    const evil = 'a\n2026 error forged \u001b[2J\u202e\u009b'
    log.warn({evil, nested: {evil}}, 'odd entry')
    expect(out.lines[0]?.trimEnd()).to.not.match(/[\u0000-\u001f\u007f-\u009f\u202e]/)
    expect(out.lines[0]).to.match(/forged/)
  })
})
