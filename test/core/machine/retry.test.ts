import {expect} from 'chai'
import fc from 'fast-check'
import {errorTable, fail, ImgstoreError, type ErrorCode} from '../../../src/core/errors.ts'
import {decideRetry, retryAfterMaxMs, type RetrySettings} from '../../../src/core/machine/retry.ts'

const settings: RetrySettings = {maxAttempts: 3, waitMs: 1000, waitMaxMs: 60_000, jitterPercent: 20}
const unavailable = (retryAfterMs?: number): ImgstoreError =>
  fail('source_unavailable', {
    url: 'u',
    reason: 'r',
    ...(retryAfterMs === undefined ? {} : {retryAfterMs}),
  })

const anySettings = fc.record({
  maxAttempts: fc.integer({min: 1, max: 1000}),
  waitMs: fc.integer({min: 0, max: 3_600_000}),
  waitMaxMs: fc.integer({min: 0, max: 86_400_000}),
  jitterPercent: fc.integer({min: 0, max: 100}),
})
const random = fc.double({min: 0, max: 1, noNaN: true})

/** Details of a row, each of them something: empty text where the row asks for what is not here. */
function detailsOf(code: ErrorCode): Record<string, unknown> {
  const details: Record<string, unknown> = {
    digest: 'd',
    entry: 'e',
    name: 'n',
    allowed: [],
    text: '',
  }
  const asked = new Proxy(details, {
    get: (target, key) => (typeof key === 'string' ? (target[key] ??= '') : ''),
  })
  const {message} = errorTable[code] as unknown as {message: (d: object) => string}
  message(asked)
  return details
}

describe('retries', () => {
  it('are three attempts with waits of one and two seconds, as promised', () => {
    const first = decideRetry(unavailable(), 1, false, settings, 0)
    expect(first).to.deep.equal({isRetried: true, waitMs: 1000, nextAttempt: 2})
    const second = decideRetry(unavailable(), 2, false, settings, 0)
    expect(second).to.deep.equal({isRetried: true, waitMs: 2000, nextAttempt: 3})
    expect(decideRetry(unavailable(), 3, false, settings, 0)).to.deep.equal({isRetried: false})
  })

  it('look again for what only waits, for ever, and count no attempt', () => {
    const low = fail('space_low', {path: '/s', freeBytes: 1, neededBytes: 2, reserveBytes: 3})
    for (const attempt of [1, 2, 3, 99]) {
      const decision = decideRetry(low, attempt, false, settings, 0)
      expect(decision).to.deep.equal({isRetried: true, waitMs: 5000, nextAttempt: attempt})
    }
    const quick = {...settings, waitMaxMs: 100}
    expect(decideRetry(low, 1, false, quick, 1)).to.include({waitMs: 120})
  })

  it('are never made of what another attempt cannot mend', () => {
    const codes = (Object.keys(errorTable) as ErrorCode[]).filter(
      (code) => !['backoff', 'wait'].includes(errorTable[code].retry),
    )
    fc.assert(
      fc.property(
        fc.constantFrom(...codes),
        anySettings,
        fc.boolean(),
        random,
        (code, s, progress, r) => {
          const error = new ImgstoreError(code, detailsOf(code))
          expect(decideRetry(error, 1, progress, s, r)).to.deep.equal({isRetried: false})
        },
      ),
    )
  })

  it('wait longer each time, never longer than set plus the jitter, and vary upwards only', () => {
    fc.assert(
      fc.property(anySettings, random, fc.integer({min: 1, max: 998}), (s, r, attempt) => {
        const all = {...s, maxAttempts: 1000}
        const now = decideRetry(unavailable(), attempt, false, all, r)
        const plain = decideRetry(unavailable(), attempt, false, all, 0)
        const later = decideRetry(unavailable(), attempt + 1, false, all, r)
        if (!now.isRetried || !plain.isRetried || !later.isRetried) throw new Error('not retried')
        expect(later.waitMs).to.be.at.least(now.waitMs)
        expect(now.waitMs).to.be.at.least(plain.waitMs)
        expect(now.waitMs).to.be.at.most(Math.round(s.waitMaxMs * (1 + s.jitterPercent / 100)))
        expect(now.waitMs).to.be.at.most(Math.round(plain.waitMs * (1 + s.jitterPercent / 100)))
        expect(Number.isSafeInteger(now.waitMs)).to.equal(true)
        expect(now.nextAttempt).to.equal(attempt + 1)
      }),
    )
  })

  it('wait at least as long as the source asks for, up to an hour', () => {
    fc.assert(
      fc.property(anySettings, random, fc.integer({min: -1e9, max: 1e12}), (s, r, asked) => {
        const all = {...s, maxAttempts: 2}
        const own = decideRetry(unavailable(), 1, false, all, r)
        const told = decideRetry(unavailable(asked), 1, false, all, r)
        if (!own.isRetried || !told.isRetried) throw new Error('not retried')
        expect(told.waitMs).to.equal(
          Math.max(own.waitMs, Math.min(Math.max(asked, 0), retryAfterMaxMs)),
        )
      }),
    )
  })

  it('end after so many attempts without progress, and begin anew with each that made some', () => {
    fc.assert(
      fc.property(
        anySettings,
        random,
        fc.array(fc.boolean(), {maxLength: 50}),
        (s, r, progress) => {
          let attempt = 1
          let withoutProgress = 0
          for (const hadProgress of progress) {
            withoutProgress = hadProgress ? 0 : withoutProgress + 1
            const decision = decideRetry(unavailable(), attempt, hadProgress, s, r)
            expect(decision.isRetried).to.equal(hadProgress || withoutProgress < s.maxAttempts)
            if (!decision.isRetried) return
            attempt = decision.nextAttempt
          }
        },
      ),
    )
  })
})
