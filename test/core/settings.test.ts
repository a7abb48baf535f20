import {mkdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import fc from 'fast-check'
import {ImgstoreError} from '../../src/core/errors.ts'
import {GiB, MiB} from '../../src/core/limits.ts'
import {formatValue, parseBytes, parseDuration, parseValue} from '../../src/core/setting-values.ts'
import {
  expectation,
  resolveSettings,
  settingKeys,
  settingTable,
  type SettingInputs,
  type SettingSpec,
} from '../../src/core/settings.ts'
import {withTempDir} from '../support/temp-dir.ts'

function resolved(inputs: Partial<SettingInputs>) {
  return resolveSettings({env: {}, dataDir: '/nowhere/data', cwd: '/nowhere', ...inputs})
}

function refused(inputs: Partial<SettingInputs>): ImgstoreError {
  try {
    resolved(inputs)
  } catch (error) {
    if (error instanceof ImgstoreError) return error
    throw error
  }
  throw new Error('nothing was refused')
}

async function withConfig<T>(
  values: unknown,
  body: (config: {path: string; isRequired: boolean}) => T | Promise<T>,
): Promise<T> {
  return await withTempDir(async (dir) => {
    const path = join(dir, 'config.json')
    writeFileSync(path, typeof values === 'string' ? values : JSON.stringify(values))
    return await body({path, isRequired: true})
  })
}

describe('settings', () => {
  it('takes a value from the flag before the environment before the file before the default', async () => {
    await withConfig({concurrency: 5}, (config) => {
      const env = {IMGSTORE_CONCURRENCY: '4'}
      const flag = resolved({flags: {concurrency: '3'}, env, config})
      expect(flag.settings.concurrency).to.equal(3)
      expect(flag.origins.concurrency).to.equal('flag --concurrency')
      const variable = resolved({env, config})
      expect(variable.settings.concurrency).to.equal(4)
      expect(variable.origins.concurrency).to.equal('IMGSTORE_CONCURRENCY')
      const file = resolved({config})
      expect(file.settings.concurrency).to.equal(5)
      expect(file.origins.concurrency).to.equal(config.path)
      const rest = resolved({})
      expect(rest.settings.concurrency).to.equal(2)
      expect(rest.origins.concurrency).to.equal('default')
    })
  })

  it('takes the first of several environment names that is set', () => {
    const env = {AWS_REGION: 'b', AWS_DEFAULT_REGION: 'c'}
    expect(resolved({env}).settings.s3Region).to.equal('b')
    expect(resolved({env: {...env, IMGSTORE_S3_REGION: 'a'}}).settings.s3Region).to.equal('a')
  })

  it('takes an empty environment variable for one that is not set', () => {
    const {settings, origins} = resolved({env: {IMGSTORE_CONCURRENCY: ''}})
    expect(settings.concurrency).to.equal(2)
    expect(origins.concurrency).to.equal('default')
  })

  it('makes paths absolute from the working directory', () => {
    const {settings} = resolved({flags: {store: 'a/../b'}, env: {IMGSTORE_CA_FILE: 'ca.pem'}})
    expect(settings.store).to.equal('/nowhere/b')
    expect(settings.caFile).to.equal('/nowhere/ca.pem')
  })

  it('takes no address for a path, and shows no password of one', () => {
    const words = [
      'https://me:hush@host/ca.pem?sig=hush',
      'me:hush@host/ca.pem',
      '//me:hush@host',
      'https:/me:hush@host',
      's3://bucket/ca.pem',
    ]
    for (const word of words) {
      const {code, message} = refused({env: {IMGSTORE_CA_FILE: word}})
      expect(code).to.equal('invalid_setting')
      expect(message).to.include('a path of this host').and.not.include('hush')
    }
    const paths = ['//srv/x', './a:b@c', '/srv/a:b@c', 'a@b/c:d', '-', 'a:b']
    for (const path of paths) expect(() => resolved({env: {IMGSTORE_CA_FILE: path}})).not.to.throw()
  })

  it('puts the database beside the store unless told otherwise', () => {
    const {settings, origins} = resolved({flags: {store: '/srv/images/store'}})
    expect(settings.db).to.equal('/srv/images/store.db')
    expect(origins.db).to.equal('beside the store')
    expect(resolved({env: {IMGSTORE_DB_PATH: '/x.db'}}).settings.db).to.equal('/x.db')
  })

  it('finds ./store when it exists, else falls to the data directory, and says why', async () => {
    await withTempDir((cwd) => {
      const before = resolved({cwd, dataDir: '/home/me/.data'})
      // A host on which imgstore is installed has a store of the system; it comes first then.
      expect(before.settings.store).to.be.oneOf(['/home/me/.data/store', '/var/lib/imgstore/store'])
      expect(before.origins.store).to.match(/the user's data directory|exists/)
      mkdirSync(join(cwd, 'store'))
      const {settings, origins} = resolved({cwd})
      expect(settings.store).to.equal(join(cwd, 'store'))
      expect(origins.store).to.equal('./store exists')
      const named = resolved({cwd, env: {IMGSTORE_STORE_PATH: '/elsewhere'}})
      expect(named.settings.store).to.equal('/elsewhere')
      expect(named.origins.store).to.equal('IMGSTORE_STORE_PATH')
    })
  })

  it('refuses a value out of range, naming key, value, range and place', async () => {
    const byFlag = refused({flags: {concurrency: '65'}})
    expect(byFlag.code).to.equal('invalid_setting')
    expect(byFlag.message)
      .to.include('concurrency')
      .and.include('"65"')
      .and.include('from 1 to 64')
      .and.include('flag --concurrency')
    expect(refused({env: {IMGSTORE_LEASE: '1ms'}}).message)
      .to.include('leaseMs')
      .and.include('from 500ms to 1h')
      .and.include('IMGSTORE_LEASE')
    await withConfig({profile: 'loose'}, (config) => {
      expect(refused({config}).message)
        .to.include('profile')
        .and.include('"loose"')
        .and.include('one of strict, image, data')
        .and.include(config.path)
    })
  })

  it('refuses every number just past its bounds and takes the bounds', () => {
    for (const key of settingKeys) {
      const spec: SettingSpec = settingTable[key]
      if (!('min' in spec)) continue
      for (const value of [spec.min, spec.max])
        expect(resolved({flags: {[key]: value}}).settings[key], key).to.equal(value)
      for (const value of [spec.min - 1, spec.max + 1, Number.NaN, spec.min + 0.5])
        expect(refused({flags: {[key]: value}}).code, key).to.equal('invalid_setting')
    }
  })

  it('refuses a value of the wrong kind from the file', async () => {
    for (const values of [
      {concurrency: null},
      {concurrency: [1]},
      {store: 7},
      {allowFile: 'maybe'},
      {profile: {}},
      {store: ''},
      {store: 'a\0b'},
    ])
      await withConfig(values, (config) => {
        expect(refused({config}).code, JSON.stringify(values)).to.equal('invalid_setting')
      })
  })

  it('refuses unknown keys of the file, those of Object.prototype too', async () => {
    for (const key of ['concurency', 'toString', '__proto__x', 'constructor'])
      await withConfig({[key]: 1}, (config) => {
        const error = refused({config})
        expect(error.code).to.equal('unknown_setting')
        expect(error.message).to.include(key).and.include(config.path)
      })
    await withConfig('{"__proto__": 1}', (config) => {
      expect(refused({config}).code).to.equal('unknown_setting')
    })
  })

  it('refuses a file that is no JSON object, and one that is asked for and missing', async () => {
    for (const text of ['', '[]', '1', 'null', '{'])
      await withConfig(text, (config) => {
        expect(refused({config}).message).to.include(config.path)
      })
    expect(refused({config: {path: '/no/such', isRequired: true}}).message).to.include('/no/such')
    const {origins} = resolved({config: {path: '/no/such', isRequired: false}})
    expect(origins.concurrency).to.equal('default')
  })

  it('never shows a secret in a message', async () => {
    const secrets = settingKeys.filter((key) => (settingTable[key] as SettingSpec).isSecret)
    expect(secrets).to.have.lengthOf(4)
    for (const key of secrets) {
      // An older program promised that one; using it warns.
      if (key !== 'metricsAuthToken') expect(settingTable[key]).not.to.have.property('flag')
      await withConfig({[key]: ['hush-hush']}, (config) => {
        expect(refused({config}).message).to.include(key).and.not.to.include('hush')
      })
    }
  })

  it('freezes what it resolved', () => {
    expect(Object.isFrozen(resolved({}).settings)).to.equal(true)
  })

  it('uses every environment name and flag once, but where a command has its own form of it', () => {
    const all = settingKeys.map((key) => settingTable[key] as SettingSpec)
    for (const command of [undefined, 'serve']) {
      const specs = all.filter((spec) => spec.command === command)
      for (const names of [
        specs.flatMap((spec) => [...(spec.env ?? []), ...(spec.lenientEnv ?? [])]),
        specs.flatMap((spec) => spec.flag ?? []),
      ])
        expect(new Set(names).size).to.equal(names.length)
    }
  })

  it('takes older names last, and ignores with a warning what is wrong there', () => {
    const older = {AERO_BIND: 'localhost:80', AERO_STORAGE_SERVER_ADDR: '127.0.0.1:81'}
    const taken = resolved({env: older})
    expect(taken.settings.listenAddr).to.equal('127.0.0.1:81')
    expect(taken.origins.listenAddr).to.equal('AERO_STORAGE_SERVER_ADDR')
    expect(taken.warnings).to.have.lengthOf(1)
    expect(taken.warnings[0]).to.contain('AERO_BIND').and.to.contain('localhost:80')
    const env = {...older, AERO_STORAGE_LISTEN_ADDR: '127.0.0.1:82'}
    expect(resolved({env}).settings.listenAddr).to.equal('127.0.0.1:82')
    const own = resolved({env: {...env, IMGSTORE_LISTEN_ADDR: '[::1]:83'}})
    expect(own.settings.listenAddr).to.equal('[::1]:83')
    expect(own.warnings).to.deep.equal([])
    expect(refused({env: {AERO_STORAGE_LISTEN_ADDR: 'localhost:80'}}).exit).to.equal(2)
    expect(refused({env: {AERO_STORAGE_MAX_RANGE_BYTES: ''}}).exit).to.equal(2)
    expect(refused({env: {AERO_STORAGE_IMAGE_ROOT: ''}}).exit).to.equal(2)
    expect(resolved({env: {AERO_IMAGE_DIR: ''}}).warnings).to.have.lengthOf(1)
  })

  it('reads the booleans of other programs, and the largest numbers they write', () => {
    for (const yes of ['1', 'true', 'T', ' YES ', 'y', 'On'])
      expect(resolved({env: {AERO_STORAGE_REQUIRE_RANGE: yes}}).settings.requireRange).to.equal(
        true,
      )
    for (const no of ['0', 'FALSE', 'f', 'no', 'N', 'off', ''])
      expect(resolved({env: {AERO_STORAGE_REQUIRE_RANGE: no}}).settings.requireRange).to.equal(
        false,
      )
    const strange = resolved({env: {AERO_STORAGE_REQUIRE_RANGE: 'perhaps'}})
    expect(strange.settings.requireRange).to.equal(false)
    expect(strange.warnings).to.have.lengthOf(1)
    const env = {AERO_STORAGE_MAX_RANGE_BYTES: '18446744073709551615'}
    expect(resolved({env}).settings.maxRangeBytes).to.equal(Number.MAX_SAFE_INTEGER)
    expect(refused({env: {AERO_STORAGE_MAX_RANGE_BYTES: '18446744073709551616'}}).exit).to.equal(2)
  })

  it('reads lists with commas, repeated or not', () => {
    const flags = {corsOrigins: ['https://a, https://b', '', 'https://c']}
    const {settings} = resolved({flags})
    expect(settings.corsOrigins).to.deep.equal(['https://a', 'https://b', 'https://c'])
  })

  it('has defaults within their own bounds, and words for what is expected of each', () => {
    for (const key of settingKeys) {
      const spec: SettingSpec = settingTable[key]
      if (spec.default !== undefined)
        expect(parseValue(spec, spec.default), key).to.equal(spec.default)
      expect(expectation(spec)).to.match(/^(a |one of |text|true)/)
    }
  })
})

describe('values of settings', () => {
  it('are read back as they were written', () => {
    for (const key of settingKeys) {
      const spec: SettingSpec = settingTable[key]
      if (!('min' in spec)) continue
      fc.assert(
        fc.property(fc.integer({min: spec.min, max: spec.max}), (value) => {
          expect(parseValue(spec, formatValue(spec, value))).to.equal(value)
        }),
        {numRuns: 100},
      )
    }
  })

  it('read sizes with binary and decimal units', () => {
    expect(parseBytes('4096')).to.equal(4096)
    expect(parseBytes('100MiB')).to.equal(100 * MiB)
    expect(parseBytes('1.5G')).to.equal(1.5 * GiB)
    expect(parseBytes('2 kb')).to.equal(2000)
    for (const wrong of ['', 'MiB', '-1', '1e3', '0x10', '1 M B', '1.', 'NaN', '١'])
      expect(parseBytes(wrong), wrong).to.equal(undefined)
  })

  it('read durations, a bare number as seconds', () => {
    expect(parseDuration('500ms')).to.equal(500)
    expect(parseDuration('30')).to.equal(30_000)
    expect(parseDuration('1.5h')).to.equal(5_400_000)
    expect(parseDuration('1d')).to.equal(86_400_000)
    for (const wrong of ['', 's', '-1s', '1 week', '1e3s', 'constructor', '1constructor'])
      expect(parseDuration(wrong), wrong).to.equal(undefined)
  })

  it('never throw, whatever the text', () => {
    fc.assert(
      fc.property(fc.string(), fc.constantFrom(...settingKeys), (text, key) => {
        parseValue(settingTable[key], text)
      }),
    )
  })
})
