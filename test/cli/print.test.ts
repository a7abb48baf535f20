import {expect} from 'chai'
import fc from 'fast-check'
import {
  bar,
  fit,
  formatAge,
  formatBytes,
  formatCount,
  formatDuration,
  formatTime,
  labelled,
  printable,
  table,
  toJson,
} from '../../src/cli/print.ts'

describe('print', () => {
  it('shows what could steer a terminal as an escape', () => {
    expect(printable('a\u001b[31mb\nc\td\u202ee\u0085')).to.equal(
      'a\\u001b[31mb\\nc\\td\\u202ee\\u0085',
    )
    expect(printable('Größe – 漢字 "x"')).to.equal('Größe – 漢字 "x"')
  })

  it('never lets a control character through, whatever the text', () => {
    fc.assert(
      fc.property(fc.string({unit: 'binary'}), (text) => {
        expect(printable(text)).to.not.match(/[\p{Cc}\u202a-\u202e\u2066-\u2069\u200b-\u200f]/u)
      }),
    )
  })

  it('writes sizes in binary units', () => {
    expect(formatBytes(0)).to.equal('0 B')
    expect(formatBytes(1023)).to.equal('1023 B')
    expect(formatBytes(1024)).to.equal('1.0 KiB')
    expect(formatBytes(41.2 * 1024 ** 2)).to.equal('41.2 MiB')
    expect(formatBytes(1024 ** 3 - 1)).to.equal('1.0 GiB')
    expect(formatBytes(5000 * 1024 ** 5)).to.equal('5000.0 PiB')
  })

  it('writes durations in their two largest units', () => {
    const written = [0, 850, 999.6, 4200, 9960, 59_400, 60_000, 200_000, 7_500_000, 97 * 3_600_000]
    expect(written.map((ms) => formatDuration(ms))).to.deep.equal([
      '0 ms',
      '850 ms',
      '1.0 s',
      '4.2 s',
      '10 s',
      '59 s',
      '1 min',
      '3 min 20 s',
      '2 h 5 min',
      '4 d 1 h',
    ])
    expect(formatDuration(-5)).to.equal('0 ms')
  })

  it('writes ages and moments', () => {
    const now = Date.UTC(2026, 10, 20, 12, 0, 0)
    expect(formatTime(now)).to.equal('2026-11-20 12:00:00Z')
    expect(formatAge(now, now)).to.equal('just now')
    expect(formatAge(now - 30_000, now)).to.equal('30 s ago')
    expect(formatAge(now - 330_000, now)).to.equal('5 min ago')
    expect(formatAge(now - 47 * 3_600_000, now)).to.equal('47 h ago')
    expect(formatAge(now - 72 * 3_600_000, now)).to.equal('3 d ago')
    expect(formatAge(now + 60_000, now)).to.equal('just now')
  })

  it('counts in words', () => {
    expect(formatCount(1, 'item')).to.equal('1 item')
    expect(formatCount(12_345, 'entry', 'entries')).to.equal('12,345 entries')
  })

  it('aligns tables and leaves no space at the end of a line', () => {
    const lines = table(
      ['NAME', 'SIZE', 'NOTE'],
      [
        ['a', '1.0 KiB', ''],
        ['größer', '12 B', 'x'],
      ],
      ['SIZE'],
    )
    expect(lines).to.deep.equal(['NAME       SIZE  NOTE', 'a       1.0 KiB', 'größer     12 B  x'])
  })

  it('aligns labelled values, and none at all', () => {
    expect(
      labelled([
        ['a', '1'],
        ['long', '2'],
      ]),
    ).to.deep.equal(['  a     1', '  long  2'])
    expect(labelled([])).to.deep.equal([])
  })

  it('cuts lines to a terminal, and leaves them whole without one', () => {
    expect(fit(['abcdef', 'abc'], 4)).to.deep.equal(['abc…', 'abc'])
    expect(fit(['abcdef'], undefined)).to.deep.equal(['abcdef'])
    expect(fit(['abcdef'], 0)).to.deep.equal(['abcdef'])
  })

  it('draws a bar within its bounds', () => {
    expect(bar(0, 4)).to.equal('░░░░')
    expect(bar(0.5, 4)).to.equal('██░░')
    expect(bar(7, 4)).to.equal('████')
  })

  it('writes JSON keys in snake case and moments as ISO 8601 in UTC', () => {
    const json = toJson({
      sizeBytes: 1,
      createdAt: Date.UTC(2026, 0, 2),
      run: {dueAt: undefined, startedAt: 0},
      events: [{at: 1000, from: 'NEW'}],
      counts: {NEW: 1, 'a/Path': 2},
      isOk: true,
      nothing: null,
      flat: 5,
    })
    expect(json).to.deep.equal({
      size_bytes: 1,
      created_at: '2026-01-02T00:00:00.000Z',
      run: {due_at: undefined, started_at: '1970-01-01T00:00:00.000Z'},
      events: [{at: '1970-01-01T00:00:01.000Z', from: 'NEW'}],
      counts: {NEW: 1, 'a/Path': 2},
      is_ok: true,
      nothing: null,
      flat: 5,
    })
  })

  it('leaves a number alone that is no moment a date can hold', () => {
    expect(toJson({startedAt: 9e15, stoppedAt: Number.NaN})).to.deep.equal({
      started_at: 9e15,
      stopped_at: Number.NaN,
    })
  })
})
