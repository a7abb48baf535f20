/**
 * What a run of reads has shown so far: figures, faults, plots, table.
 *
 * @import {Reading} from './reader.js'
 */
import {byId, make, setText} from './dom.js'
import {
  byteTicks,
  formatBytes,
  formatCount,
  formatMs,
  formatRate,
  quantile,
  throughput,
  ticks,
} from './figures.js'
import {showPlot} from './plot.js'

const faultsMax = 10
/** Plots are drawn anew at most so often; hundreds of small reads may end in one frame. */
const drawEveryMs = 150
const bucketsMax = 60

export class Results {
  /** @type {Reading[]} */
  #readings = []
  #count
  #sizeBytes
  #hasDigests
  #drawnMs = 0

  /** @param {{count: number, sizeBytes: number, hasDigests: boolean}} o of the image or its chunked form */
  constructor({count, sizeBytes, hasDigests}) {
    this.#count = count
    this.#sizeBytes = sizeBytes
    this.#hasDigests = hasDigests
    byId('proof-results', HTMLElement).hidden = false
    byId('proof-faults', HTMLElement).replaceChildren()
    byId('proof-rows', HTMLElement).replaceChildren()
    this.#draw()
  }

  /** @param {Reading} reading */
  add(reading) {
    this.#readings.push(reading)
    byId('proof-rows', HTMLElement).append(makeRow(reading))
    if (reading.verdict === 'wrong' || reading.verdict === 'failed') this.#addFault(reading)
    const nowMs = performance.now()
    if (nowMs - this.#drawnMs > drawEveryMs) this.#draw()
  }

  /**
   * Draws the last state and gives it in one sentence.
   *
   * @param {boolean} wasStopped
   */
  end(wasStopped) {
    this.#draw()
    const {bytes, wrong, failed, verified, rate} = this.#sums()
    const all = this.#readings.length
    const state = wasStopped ? `Stopped after ${all} of ${this.#count} reads` : `${all} reads`
    const faults =
      wrong + failed === 0
        ? 'nothing wrong'
        : [wrong > 0 && `${wrong} wrong`, failed > 0 && `${failed} failed`]
            .filter(Boolean)
            .join(', ')
    const checked = this.#hasDigests
      ? `${verified} verified against their digests`
      : 'headers and lengths checked'
    return `${state}, ${formatBytes(bytes)} at ${formatRate(rate)}: ${checked}, ${faults}.`
  }

  #sums() {
    const of = (/** @type {Reading['verdict']} */ verdict) =>
      this.#readings.filter((reading) => reading.verdict === verdict).length
    const bytes = this.#readings.reduce((sum, reading) => sum + reading.bytes, 0)
    const endMs = Math.max(0, ...this.#readings.map((reading) => reading.endMs))
    return {
      bytes,
      endMs,
      verified: of('verified'),
      wrong: of('wrong'),
      failed: of('failed'),
      retries: this.#readings.reduce((sum, reading) => sum + reading.retries, 0),
      rate: endMs > 0 ? (bytes / endMs) * 1000 : 0,
    }
  }

  /** @param {Reading} reading */
  #addFault(reading) {
    const list = byId('proof-faults', HTMLElement)
    if (list.children.length < faultsMax)
      list.append(make('li', {}, `${describe(reading)}: ${reading.reason ?? ''}`))
    else if (list.children.length === faultsMax)
      list.append(make('li', {}, 'And more, in the table below.'))
  }

  #draw() {
    this.#drawnMs = performance.now()
    const done = this.#readings.length
    const progress = byId('proof-progress', HTMLProgressElement)
    progress.max = this.#count
    progress.value = done
    this.#drawFigures()
    this.#drawLatency()
    this.#drawThroughput()
    this.#drawPlaces()
  }

  #good() {
    return this.#readings.filter(({verdict}) => verdict !== 'failed')
  }

  #drawFigures() {
    const {bytes, rate, verified, wrong, failed, retries} = this.#sums()
    const first = this.#good().map(({startMs, firstByteMs}) => firstByteMs - startMs)
    const whole = this.#good().map(({startMs, endMs}) => endMs - startMs)
    const faults = wrong + failed
    /** @type {[string, string, string?][]} */
    const figures = [
      ['Reads', `${formatCount(this.#readings.length)} of ${formatCount(this.#count)}`],
      ['Verified', this.#hasDigests ? formatCount(verified) : 'no digests'],
      ['Wrong or failed', formatCount(faults), faults > 0 ? 'bad' : ''],
      ['Read', formatBytes(bytes)],
      ['Throughput', formatRate(rate)],
      ['First byte', orDash(quantile(first, 0.5))],
      ['Whole read', orDash(quantile(whole, 0.5))],
      ['99 % within', orDash(quantile(whole, 0.99))],
    ]
    if (retries > 0) figures.push(['Retries', formatCount(retries)])
    byId('proof-figures', HTMLElement).replaceChildren(
      ...figures.map(([name, value, kind]) =>
        make('div', kind ? {class: kind} : {}, make('dt', {}, name), make('dd', {}, value)),
      ),
    )
  }

  #drawLatency() {
    const good = this.#good()
    const tooks = good.map(({startMs, endMs}) => endMs - startMs)
    const median = quantile(tooks, 0.5)
    const byRange = good.filter(({read}) => read.by === 'range').length
    const kinds =
      byRange === good.length || byRange === 0
        ? ''
        : ` Circles are ${byRange} ranges, squares ${good.length - byRange} chunks.`
    showPlot(byId('latency-plot', HTMLElement), {
      text:
        good.length === 0
          ? 'No reads yet'
          : `Latency of ${good.length} reads: median ${formatMs(median)}, 99 % within ${formatMs(quantile(tooks, 0.99))}, slowest ${formatMs(Math.max(...tooks))}.${kinds}`,
      height: 220,
      x: this.#timeAxis(),
      y: {ticks: ticks(Math.max(0, ...tooks)), format: String, label: 'ms'},
      marks: good.map(({read, startMs, endMs, verdict}) => ({
        x: startMs / 1000,
        y: endMs - startMs,
        kind: verdict === 'wrong' ? 'cross' : read.by === 'range' ? 'dot' : 'square',
      })),
      ...(good.length > 1 && {level: {y: median, text: `median ${formatMs(median)}`}}),
    })
    setText(
      byId('latency-title', HTMLElement),
      kinds ? 'Latency of each read: ● by range, ■ by chunk' : 'Latency of each read',
    )
  }

  #timeAxis() {
    const {endMs} = this.#sums()
    return {ticks: ticks(endMs / 1000, 5), format: String, label: 'seconds since the start'}
  }

  #drawThroughput() {
    const {endMs, rate} = this.#sums()
    const bucketMs = Math.max(20, endMs / bucketsMax)
    const rates = throughput(this.#good(), bucketMs)
    const most = Math.max(0, ...rates)
    showPlot(byId('throughput-plot', HTMLElement), {
      text: `Throughput over time: ${formatRate(rate)} on average, ${formatRate(most)} at most`,
      height: 220,
      x: this.#timeAxis(),
      y: {ticks: byteTicks(most), format: formatRate, label: ''},
      line: rates.flatMap((y, index) => [
        {x: (index * bucketMs) / 1000, y},
        {x: Math.min((index + 1) * bucketMs, endMs) / 1000, y},
      ]),
    })
  }

  #drawPlaces() {
    const size = this.#sizeBytes
    const wrong = this.#readings.filter(({verdict}) => verdict === 'wrong' || verdict === 'failed')
    const axis = byteTicks(size, 6)
    const ends = [...axis.filter((value) => value < size * 0.93), size]
    showPlot(byId('places-plot', HTMLElement), {
      text: `Places of the image that were read: ${this.#readings.length} between 0 and ${formatBytes(size)}, ${wrong.length} of them not as they should be`,
      height: 74,
      x: {ticks: ends, format: formatBytes, label: ''},
      marks: this.#readings.map(({read, verdict}) => ({
        x: (read.start + read.end) / 2,
        y: 0.5,
        kind: verdict === 'wrong' || verdict === 'failed' ? 'cross' : 'tick',
      })),
    })
  }
}

/** @param {number} ms */
const orDash = (ms) => (Number.isNaN(ms) ? '–' : formatMs(ms))

/** @param {Reading} reading */
function describe({read}) {
  const bytes = `bytes ${formatCount(read.start)}–${formatCount(read.end)}`
  return read.chunk === undefined
    ? `${bytes}, by range`
    : `Chunk ${read.chunk} (${bytes}), by ${read.by === 'range' ? 'range' : 'its own address'}`
}

/** @param {Reading} reading */
function makeRow({read, startMs, firstByteMs, endMs, verdict, reason}) {
  const isFault = verdict === 'wrong' || verdict === 'failed'
  const by =
    read.by === 'chunk' ? `chunk ${read.chunk ?? ''}` : read.isSuffix ? 'suffix range' : 'range'
  return make(
    'tr',
    isFault ? {class: 'bad'} : {},
    make('td', {}, `${formatCount(read.start)}–${formatCount(read.end)}`),
    make('td', {}, by),
    make('td', {}, verdict === 'failed' ? '–' : formatMs(firstByteMs - startMs)),
    make('td', {}, verdict === 'failed' ? '–' : formatMs(endMs - startMs)),
    make('td', {}, reason === undefined ? verdict : `${verdict}: ${reason}`),
  )
}
