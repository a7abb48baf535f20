import {expect} from 'chai'
import {createCliLogger} from '../../src/cli/log.ts'
import type {LogLevel} from '../../src/core/log.ts'

function written(level: LogLevel, isJson = false): string {
  let text = ''
  const log = createCliLogger({level, isJson, stream: {write: (chunk) => (text += chunk)}})
  log.error({error: new Error('no\u001b[31m')}, 'it broke')
  log.warn({run_id: 'R', sizeBytes: 5}, 'it is odd')
  log.info({}, 'it began')
  log.debug({nothing: undefined}, 'it turned')
  return text
}

describe("a command's log", () => {
  it('is a level, a sentence and its fields, with harmless text', () => {
    expect(written('debug').split('\n')).to.deep.equal([
      'error: it broke (error=no\\u001b[31m)',
      'warn: it is odd (run_id=R, size_bytes=5)',
      'info: it began',
      'debug: it turned',
      '',
    ])
  })

  it('says only what its level asks for', () => {
    expect(written('warn').split('\n')).to.have.length(3)
    expect(written('error').split('\n')).to.have.length(2)
    expect(written('silent')).to.equal('')
  })

  it('is one JSON object a line when asked for', () => {
    const [, line = ''] = written('warn', true).split('\n')
    expect(JSON.parse(line)).to.include({
      level: 'warn',
      run_id: 'R',
      size_bytes: 5,
      msg: 'it is odd',
    })
  })
})
