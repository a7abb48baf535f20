import {expect} from 'chai'
import {
  count,
  durationMs,
  isFromFlag,
  settingFlags,
  settingValues,
  unpackWishes,
} from '../../src/cli/flags.ts'
import {ImgstoreError} from '../../src/core/errors.ts'
import {resolveSettings, settingTable} from '../../src/core/settings.ts'

const resolve = (flags: Record<string, unknown>, env: Record<string, string> = {}) =>
  resolveSettings({flags: settingValues(flags), env, dataDir: '/data', cwd: '/nonexistent'})

describe('flags from the settings table', () => {
  it('take their names, choices and words from the table', () => {
    const flags = settingFlags(['maxFileBytes', 'profile', 's3PathStyle'], 'GROUP')
    expect(Object.keys(flags)).to.deep.equal(['max-file-size', 'profile', 's3-path-style'])
    const size = flags['max-file-size']
    expect(size?.description).to.contain(settingTable.maxFileBytes.doc)
    expect(size?.description).to.contain('a size from 0B to 1024TiB')
    expect(size?.description).to.contain('IMGSTORE_MAX_FILE_SIZE')
    expect(size?.helpGroup).to.equal('GROUP')
    expect(flags['profile']?.type === 'option' && flags['profile'].options).to.deep.equal([
      'strict',
      'image',
      'data',
    ])
    expect(flags['s3-path-style']?.type === 'boolean' && flags['s3-path-style'].allowNo).to.equal(
      true,
    )
  })

  it('do not exist for secrets and for settings without a flag', () => {
    expect(() => settingFlags(['s3SecretAccessKey'])).to.throw('has no flag')
    expect(() => settingFlags(['pollMs'])).to.throw('has no flag')
  })

  it('hand their values to the settings, which name the flag when a value is wrong', () => {
    const {settings, origins} = resolve({'max-file-size': '2GiB', 'allow-file': true, wait: true})
    expect(settings.maxFileBytes).to.equal(2 * 1024 ** 3)
    expect(settings.allowFile).to.equal(true)
    expect(origins.maxFileBytes).to.equal('flag --max-file-size')
    expect(() => resolve({'max-files': '0'})).to.throw('flag --max-files')
  })

  it('let a flag switch off what the environment switched on', () => {
    const env = {IMGSTORE_ALLOW_FILE: '1'}
    expect(resolve({}, env).settings.allowFile).to.equal(true)
    expect(resolve({'allow-file': false}, env).settings.allowFile).to.equal(false)
  })

  it('make wishes for unpacking of what was given, by where it was given', () => {
    const {settings, origins} = resolve(
      {'max-files': '5', profile: 'image'},
      {IMGSTORE_MAX_DEPTH: '9'},
    )
    expect(unpackWishes(settings, origins, isFromFlag)).to.deep.equal({
      profile: 'image',
      limits: {filesMax: 5},
    })
    expect(unpackWishes(settings, origins, (origin) => origin !== 'default')).to.deep.equal({
      profile: 'image',
      limits: {filesMax: 5, depthMax: 9},
    })
    const nothing = resolve({})
    expect(unpackWishes(nothing.settings, nothing.origins, isFromFlag)).to.deep.equal({})
  })

  it('read durations and counts, and name the flag of a wrong one', () => {
    expect(durationMs('timeout', undefined)).to.equal(undefined)
    expect(durationMs('timeout', '90s')).to.equal(90_000)
    expect(count('limit', '7', 10)).to.equal(7)
    for (const wrong of [
      () => durationMs('timeout', 'soon'),
      () => count('limit', '0', 10),
      () => count('limit', '11', 10),
      () => count('limit', '1e3', 10_000),
    ]) {
      expect(wrong).to.throw(ImgstoreError).with.property('code', 'invalid_setting')
    }
  })
})
