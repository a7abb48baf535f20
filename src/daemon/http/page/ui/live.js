/**
 * The server's counters, asked for once a second while somebody looks.
 *
 * @typedef {object} Status as /ui/status.json gives it
 * @property {string} version
 * @property {number} max_range_bytes
 * @property {boolean} requires_range
 * @property {boolean} needs_lease
 * @property {number} in_flight
 * @property {number} in_flight_max 0: without limit
 * @property {number} requests_total
 * @property {number} refused_total
 * @property {number} sent_bytes_total
 */
import {byId, setText} from './dom.js'
import {byteTicks, formatBytes, formatCount, formatRate} from './figures.js'
import {showPlot} from './plot.js'

const everyMs = 1000
const windowSeconds = 60

/** @type {{atMs: number, bytes: number, rate: number | undefined}[]} */
let samples = []

/**
 * Asks and shows, for as long as the page is open.
 *
 * @param {object} o
 * @param {(status: Status) => void} o.onStatus after each answer
 * @param {(isReached: boolean) => void} o.onReach after each answer, and when none came
 */
export function startLive({onStatus, onReach}) {
  const look = async () => {
    if (document.hidden) return
    try {
      const response = await fetch('ui/status.json', {
        cache: 'no-store',
        signal: AbortSignal.timeout(5000),
      })
      if (!response.ok) throw new Error(String(response.status))
      /** @type {unknown} */
      const answer = await response.json()
      const status = /** @type {Status} */ (answer)
      show(status)
      onStatus(status)
      onReach(true)
    } catch {
      onReach(false)
    }
  }
  const again = async () => {
    await look()
    setTimeout(() => void again(), everyMs)
  }
  document.addEventListener('visibilitychange', () => void look())
  void again()
}

/** @param {Status} status */
function show(status) {
  const nowMs = performance.now()
  const bytes = status.sent_bytes_total
  const last = samples.at(-1)
  // Fewer bytes than before: another server has taken the place.
  const isFollowing = last !== undefined && bytes >= last.bytes
  const rate =
    isFollowing && nowMs > last.atMs
      ? ((bytes - last.bytes) / (nowMs - last.atMs)) * 1000
      : undefined
  if (!isFollowing) samples = []
  samples.push({atMs: nowMs, bytes, rate})
  samples = samples.filter(({atMs}) => nowMs - atMs <= windowSeconds * 1000)

  setText(byId('rate', HTMLElement), rate === undefined ? '–' : formatRate(rate))
  setText(byId('in-flight', HTMLElement), formatCount(status.in_flight))
  const most = status.in_flight_max
  setText(byId('in-flight-max', HTMLElement), most === 0 ? '' : `of ${formatCount(most)}`)
  setText(byId('sent', HTMLElement), formatBytes(bytes))
  setText(byId('requests', HTMLElement), formatCount(status.requests_total))
  setText(byId('refused', HTMLElement), formatCount(status.refused_total))
  setText(byId('version', HTMLElement), `imgstore ${status.version}`)
  plot(nowMs, rate)
}

/**
 * @param {number} nowMs
 * @param {number | undefined} rate
 */
function plot(nowMs, rate) {
  const line = samples.flatMap(({atMs, rate}) =>
    rate === undefined ? [] : [{x: windowSeconds - (nowMs - atMs) / 1000, y: rate}],
  )
  const most = Math.max(0, ...line.map(({y}) => y))
  showPlot(byId('now-plot', HTMLElement), {
    text: `Throughput of the last ${windowSeconds} seconds: now ${formatRate(rate ?? 0)}, at most ${formatRate(most)}`,
    height: 130,
    x: {
      ticks: [0, 15, 30, 45, 60],
      format: (value) => (value === windowSeconds ? 'now' : `−${windowSeconds - value} s`),
      label: '',
    },
    y: {ticks: byteTicks(Math.max(most, 1024), 3), format: formatRate, label: ''},
    line,
  })
}
