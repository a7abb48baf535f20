import {spawn, spawnSync} from 'node:child_process'
import {once} from 'node:events'
import {readFileSync} from 'node:fs'
import {expect} from 'chai'
import {livenessOf, ownIdentity} from '../../../src/core/images/owners.ts'

describe('owners', () => {
  const self = ownIdentity()

  it('know themselves: boot, namespace, process and its start', () => {
    expect(self.boot_id).to.match(/^[0-9a-f-]{36}$/)
    expect(self.pid).to.equal(process.pid)
    expect(self.pid_start).to.match(/^\d+$/)
    expect(self.pid_namespace).to.match(/^pid:\[\d+\]$/)
  })

  it('live while their process does', () => {
    expect(livenessOf(self, self)).to.equal('alive')
  })

  it('are dead when their process is, and when another process has its number', async () => {
    const child = spawn('sleep', ['60'])
    await once(child, 'spawn')
    const stat = readFileSync(`/proc/${child.pid}/stat`, 'latin1')
    const start = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
    const owner = {...self, pid: child.pid ?? 0, pid_start: start}
    expect(livenessOf(owner, self)).to.equal('alive')
    expect(livenessOf({...owner, pid_start: `${Number(start) - 1}`}, self)).to.equal('dead')
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(livenessOf(owner, self)).to.equal('dead')
  })

  it('are dead when only their corpse is left', async () => {
    // The shell's child ends soon, and is never waited for once something else sleeps in the shell's stead.
    const child = spawn('sh', ['-c', 'sleep 1 & echo $!; exec sleep 60'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    const [said] = (await once(child.stdout, 'data')) as [Buffer]
    const pid = Number(said.toString())
    const state = (): string => {
      const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
      return stat.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3)
    }
    while (state() !== 'Z') await new Promise((resolve) => setTimeout(resolve, 5))
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const start = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
    expect(livenessOf({...self, pid, pid_start: start}, self)).to.equal('dead')
    child.kill('SIGKILL')
    await once(child, 'exit')
  })

  it('of another boot are dead, of another namespace or an unknown boot nobody knows', () => {
    expect(livenessOf({...self, boot_id: 'another'}, self)).to.equal('dead')
    expect(livenessOf({...self, pid_namespace: 'pid:[1]'}, self)).to.equal('unknown')
    expect(livenessOf({...self, pid_namespace: ''}, self)).to.equal('unknown')
    expect(livenessOf({...self, boot_id: ''}, self)).to.equal('unknown')
  })

  it('with odd names of their program are read right', () => {
    const script = `process.title = 'a) R 1 (b'
      import('./src/core/images/owners.ts').then(({ownIdentity, livenessOf}) => {
        const self = ownIdentity()
        console.log(livenessOf(self, self), /^\\d+$/.test(self.pid_start))
      })`
    const made = spawnSync(process.execPath, ['--no-warnings', '-e', script])
    expect(made.stdout.toString()).to.equal('alive true\n')
  })
})
