/** The files of deploy/ name only what there is: settings, flags, paths and ports. */
import {readFileSync, readdirSync, statSync} from 'node:fs'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {expect} from 'chai'
import Serve from '../../src/commands/serve.ts'
import {parseDuration, parseValue} from '../../src/core/setting-values.ts'
import {settingKeys, settingTable, type SettingSpec} from '../../src/core/settings.ts'
import {matchPath} from '../../src/daemon/http/streaming/router.ts'

const deployDir = fileURLToPath(new URL('../../deploy', import.meta.url))
const files = readdirSync(deployDir, {recursive: true, encoding: 'utf8'})
  .filter((name) => statSync(join(deployDir, name)).isFile())
  .toSorted()
const read = (name: string): string => readFileSync(join(deployDir, name), 'utf8')

const specs: SettingSpec[] = settingKeys.map((key) => settingTable[key])
const byVariable = new Map(
  specs.flatMap((spec) =>
    [...(spec.env ?? []), ...(spec.lenientEnv ?? [])].map((name) => [name, spec] as const),
  ),
)
const drainMs = settingTable.drainTimeoutMs.default
const port = /\d+$/.exec(settingTable.listenAddr.default)?.[0]

/** A variable of ours must be one of the table, and its value one that the table takes. */
function expectSetting(name: string, value: string): void {
  const spec = byVariable.get(name)
  expect(spec, `${name} is no setting`).to.not.equal(undefined)
  if (spec) expect(parseValue(spec, value), `${name}=${value}`).to.not.equal(undefined)
}

function expectFlag(argument: string): void {
  const [, name = '', , value] = /^--([a-z-]+)(=(.*))?$/.exec(argument) ?? []
  expect(Object.keys(Serve.flags), argument).to.include(name)
  const spec = specs.find(({flag, command}) => flag === name && (command ?? 'serve') === 'serve')
  expect(spec, `${argument} is no setting`).to.not.equal(undefined)
  if (spec) expect(parseValue(spec, value ?? true), argument).to.not.equal(undefined)
}

/** Values of `key:` anywhere in a YAML file; quotes taken off. */
function yamlValues(text: string, key: string): string[] {
  const lines = text.matchAll(new RegExp(`^\\s*(?:- )?${key}:[ \\t]+(.+)$`, 'gm'))
  return [...lines].map(([, value = '']) => value.replaceAll(/^'|'$/g, ''))
}

describe('the files of deploy/', () => {
  it('mention no variable that is not a setting, in comments neither', () => {
    let count = 0
    for (const file of files)
      for (const [name] of read(file).matchAll(/\b(?:IMGSTORE|AERO)_[A-Z_]*[A-Z]/g)) {
        expect([...byVariable.keys()], `${file}: ${name}`).to.include(name)
        count++
      }
    expect(count).to.be.greaterThan(10)
  })

  for (const file of files.filter((name) => name.endsWith('.service')))
    it(`sets variables that are settings, with values they take: ${file}`, () => {
      const lines = [...read(file).matchAll(/^#?Environment=(.*)$/gm)]
      expect(lines.length).to.be.greaterThan(2)
      for (const [, line = ''] of lines)
        for (const pair of line.split(' ')) {
          const [name = '', value = ''] = pair.split(/=(.*)/s)
          expectSetting(name, value)
        }
    })

  it("stops no server before its answers are done: the server's unit", () => {
    const seconds = Number(
      /^TimeoutStopSec=(\d+)$/m.exec(read('systemd/imgstore-serve.service'))?.[1],
    )
    // The server itself gives up five seconds after the drain.
    expect(seconds * 1000).to.be.greaterThan(drainMs + 5000)
  })

  for (const file of files.filter((name) => name.startsWith('nginx/')))
    it(`passes on to where the server listens: ${file}`, () => {
      expect(read(file)).to.include(`server 127.0.0.1:${port};`)
      const keepMs = parseDuration(/keepalive_timeout (\w+);/.exec(read(file))?.[1])
      expect(keepMs).to.be.lessThan(settingTable.idleTimeoutMs.default)
    })

  it('are a container that listens where it says, with settings of the table', () => {
    const text = read('container/Containerfile')
    const [, environment = ''] = /^ENV ((?:.*\\\n)*.*)$/m.exec(text) ?? []
    const pairs = environment
      .split(/[\s\\]+/)
      .filter(Boolean)
      .map((pair) => pair.split(/=(.*)/s) as [string, string])
      .filter(([name]) => name !== 'HOME')
    expect(pairs.length).to.equal(2)
    for (const [name, value] of pairs) expectSetting(name, value)
    expect(Object.fromEntries(pairs)).to.include({AERO_STORAGE_LISTEN_ADDR: `0.0.0.0:${port}`})
    expect(text).to.match(new RegExp(`^EXPOSE ${port}$`, 'm'))
    expect(text).to.include('\nENTRYPOINT ["/usr/local/bin/imgstore", "serve"]\n')
    expect(text).to.include('\nUSER 10001:10001\n')
  })

  for (const file of files.filter((name) => name.startsWith('kubernetes/')))
    describe(file, () => {
      const text = read(file)

      it('gives flags and variables that are settings, with values they take', () => {
        const flags = [...text.matchAll(/^\s*- (--\S+)$/gm)].map(([, flag = '']) => flag)
        expect(flags.length)
          .to.equal(text.split(' - --').length - 1)
          .and.greaterThan(1)
        for (const flag of flags) expectFlag(flag)
        const variables = [
          ...text.matchAll(/^\s*- name: ([A-Z_]+)\n\s*(value: (.*)|valueFrom:)$/gm),
        ]
        expect(variables.length).to.be.greaterThan(3)
        for (const [, name = '', , value] of variables)
          expectSetting(name, value?.replaceAll(/^'|'$/g, '') ?? 'a secret')
        expect(yamlValues(text, 'name').filter((name) => /^[A-Z_]+$/.test(name))).to.deep.equal(
          variables.map(([, name]) => name),
        )
      })

      it('probes and scrapes paths that are there, at the port where it listens', () => {
        const paths = [...yamlValues(text, 'path'), ...yamlValues(text, 'prometheus.io/path')]
        expect(paths.toSorted()).to.deep.equal(['/healthz', '/metrics', '/readyz'])
        for (const path of paths) expect(matchPath(path)?.route.label).to.equal(path)
        const listens = /- name: AERO_STORAGE_LISTEN_ADDR\n\s*value: \S+:(\d+)$/m.exec(text)?.[1]
        expect(yamlValues(text, 'containerPort')).to.deep.equal([listens])
        expect(yamlValues(text, 'prometheus.io/port')).to.deep.equal([listens])
        expect(
          new Set([...yamlValues(text, 'targetPort'), ...yamlValues(text, 'port')]),
        ).to.deep.equal(new Set(['http', '80']))
        const mounted = yamlValues(text, 'mountPath')
        expect(mounted).to.include(
          /- name: AERO_STORAGE_IMAGE_ROOT\n\s*value: (\S+)$/m.exec(text)?.[1],
        )
      })

      it('runs as the user of the container, and lets answers end', () => {
        expect(yamlValues(text, 'runAsUser')).to.deep.equal(['10001'])
        const drain = /- name: IMGSTORE_DRAIN_TIMEOUT\n\s*value: (\S+)$/m.exec(text)?.[1]
        const grace = Number(yamlValues(text, 'terminationGracePeriodSeconds')[0])
        expect(grace * 1000).to.be.greaterThan((parseDuration(drain) ?? Infinity) + 5000)
      })
    })
})
