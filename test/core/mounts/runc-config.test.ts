import {expect} from 'chai'
import {baseEnv, hostnameOf, type EnterPlan} from '../../../src/core/mounts/enter-plan.ts'
import {runcConfig} from '../../../src/core/mounts/runc-config.ts'

const plan: EnterPlan = {
  rootDir: '/store/active/one',
  command: ['/bin/echo', '$(id)', ''],
  hostname: 'one',
  cwd: '/tmp',
  env: {A: 'b=c'},
  user: undefined,
  isTerminal: false,
  hasHostNetwork: false,
  runc: {program: '/usr/sbin/runc', id: 'imgstore-0'},
}

type Config = {
  process: {args: string[]; env: string[]; cwd: string; capabilities: Record<string, string[]>}
  root: {path: string}
  linux: {namespaces: {type: string}[]}
  mounts: {options: string[]; destination: string}[]
}
const make = (more: Partial<EnterPlan> = {}, uid = 0): Config =>
  runcConfig({...plan, ...more}, {uid, gid: uid, home: '/'}) as Config

describe("runc's configuration of a program in an image", () => {
  it('hands command, environment, directory and root over as they are', () => {
    const config = make()
    expect(config.process.args).to.deep.equal(['/bin/echo', '$(id)', ''])
    expect(config.process.env).to.deep.equal(['A=b=c'])
    expect(config.process.cwd).to.equal('/tmp')
    expect(config.root.path).to.equal('/store/active/one')
  })

  it("makes every namespace but the pid one it is started in, and the host's network when asked", () => {
    const types = (config: Config): string[] => config.linux.namespaces.map((n) => n.type)
    expect(types(make())).to.deep.equal(['mount', 'ipc', 'uts', 'network'])
    expect(types(make({hasHostNetwork: true}))).to.deep.equal(['mount', 'ipc', 'uts'])
  })

  it('gives root few capabilities, and others none', () => {
    expect(make().process.capabilities['effective']).to.include('CAP_CHOWN')
    expect(make().process.capabilities['effective']).to.not.include('CAP_SYS_ADMIN')
    expect(make({}, 7).process.capabilities['effective']).to.deep.equal([])
    expect(make({}, 7).process.capabilities['permitted']).to.deep.equal([])
  })

  it('mounts no directory of the host', () => {
    const binds = make().mounts.filter((m) => m.options.some((option) => /bind/.test(option)))
    expect(binds).to.deep.equal([])
  })
})

describe('what a program in an image starts with', () => {
  it('is a host name that the kernel takes', () => {
    expect(hostnameOf('debian-12')).to.equal('debian-12')
    expect(hostnameOf('a.b_c')).to.equal('a-b-c')
    expect(hostnameOf('x'.repeat(128))).to.have.length(63)
    expect(hostnameOf('a' + '.'.repeat(80))).to.equal('a')
    expect(hostnameOf('.')).to.equal('image')
  })

  it('is an environment without a word of the one who runs it', () => {
    expect(Object.keys(baseEnv(true))).to.deep.equal(['PATH', 'TERM', 'LANG'])
    expect(baseEnv(true)['TERM']).to.equal('xterm')
    expect(baseEnv(false)['TERM']).to.equal('dumb')
  })
})
