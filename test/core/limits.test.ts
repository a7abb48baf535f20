import {expect} from 'chai'
import {GiB, MiB, profileLimits, profiles, resolveLimits} from '../../src/core/limits.ts'

describe('limits', () => {
  it('of the strict profile are those that were promised', () => {
    expect(resolveLimits('strict', {})).to.deep.equal({
      filesMax: 10_000,
      fileBytesMax: 100 * MiB,
      totalBytesMax: 10 * GiB,
      ratioMax: 100,
      depthMax: 256,
    })
  })

  it('come from the profile where nobody gave one', () => {
    for (const profile of profiles) {
      expect(resolveLimits(profile, {})).to.deep.equal(profileLimits[profile])
      expect(resolveLimits(profile, {filesMax: 7})).to.deep.equal({
        ...profileLimits[profile],
        filesMax: 7,
      })
    }
  })

  it('leave the table of profiles as it is', () => {
    resolveLimits('strict', {}).filesMax = 1
    expect(profileLimits.strict.filesMax).to.equal(10_000)
  })
})
