import {expect} from 'chai'
import {resolveSettings, type Settings} from '../../src/core/settings.ts'
import {mergeSettings} from '../../src/daemon/reload.ts'

function settings(env: Record<string, string>): Settings {
  return resolveSettings({env, dataDir: '/data', cwd: '/nowhere'}).settings
}

describe('settings read again', () => {
  it('says what changed, in the form a person writes it', () => {
    const merged = mergeSettings(
      settings({}),
      settings({IMGSTORE_CONCURRENCY: '8', IMGSTORE_STALL_TIMEOUT: '5s'}),
    )
    expect(merged.changed).to.deep.equal([
      {setting: 'concurrency', from: '2', to: '8'},
      {setting: 'stallTimeoutMs', from: '1m', to: '5s'},
    ])
    expect(merged.needRestart).to.deep.equal([])
    expect(merged.settings).to.include({concurrency: 8, stallTimeoutMs: 5000})
    expect(merged.settings).to.be.frozen
  })

  it('keeps what the running worker is built on and names it', () => {
    const merged = mergeSettings(
      settings({IMGSTORE_STORE_PATH: '/a', IMGSTORE_LISTEN: ':1'}),
      settings({IMGSTORE_STORE_PATH: '/b', IMGSTORE_LISTEN: ':2', IMGSTORE_LOG_LEVEL: 'debug'}),
    )
    expect(merged.settings).to.include({
      store: '/a',
      db: '/store.db',
      listen: ':1',
      logLevel: 'debug',
    })
    expect(merged.needRestart.map((change) => change.setting)).to.deep.equal(['store', 'listen'])
    expect(merged.changed.map((change) => change.setting)).to.deep.equal(['logLevel'])
  })

  it('shows no secret', () => {
    const {changed} = mergeSettings(
      settings({AWS_SECRET_ACCESS_KEY: 'old'}),
      settings({AWS_SECRET_ACCESS_KEY: 'new'}),
    )
    expect(changed).to.deep.equal([{setting: 's3SecretAccessKey', from: '***', to: '***'}])
  })

  it('finds nothing to do in the same settings', () => {
    const merged = mergeSettings(settings({}), settings({}))
    expect([...merged.changed, ...merged.needRestart]).to.deep.equal([])
  })
})
