import {spawnSync} from 'node:child_process'
import {resolve} from 'node:path'
import {expect} from 'chai'
import {
  armFailpoint,
  armFailpointsFrom,
  disarmFailpoints,
  failpoint,
} from '../../src/core/failpoint.ts'

describe('failpoints', () => {
  afterEach(disarmFailpoints)

  it('do nothing unless armed', () => {
    failpoint('nobody.armed')
    armFailpoint('another', 'throw')
    failpoint('nobody.armed')
    disarmFailpoints()
    failpoint('another')
  })

  it('throw their name, or call what a test gave', () => {
    armFailpoint('a.b', 'throw')
    expect(() => failpoint('a.b')).to.throw('failpoint a.b')
    let calls = 0
    armFailpoint('c', () => calls++)
    failpoint('c')
    expect(calls).to.equal(1)
  })

  it('let as many passes go by as they were told', () => {
    armFailpoint('late', 'throw', 2)
    failpoint('late')
    failpoint('late')
    expect(() => failpoint('late')).to.throw('failpoint late')
  })

  it('are armed from text, several at once', () => {
    armFailpointsFrom('one=throw, two-b.c=throw@1,,nonsense=what')
    expect(() => failpoint('one')).to.throw('failpoint one')
    failpoint('two-b.c')
    expect(() => failpoint('two-b.c')).to.throw('failpoint two-b.c')
    failpoint('nonsense')
  })

  it('kill the process at once, as a power cut would', () => {
    const file = resolve('src/core/failpoint.ts')
    const script = `import {armFailpointsFrom, failpoint} from ${JSON.stringify(file)}
      process.on('exit', () => console.log('exit handlers ran'))
      armFailpointsFrom('here')
      console.log('before')
      failpoint('here')
      console.log('after')`
    const made = spawnSync(process.execPath, ['--input-type=module', '-e', script])
    expect(made.signal).to.equal('SIGKILL')
    expect(made.stdout.toString()).to.equal('before\n')
  })
})
