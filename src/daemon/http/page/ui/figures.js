/** Numbers of the page: how they are summed up and how they are written. Nothing here knows a browser. */

const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']

/**
 * A size in the largest unit that leaves at least 1, in three significant digits: `0 bytes`, `1.5 MiB`, `24 GiB`.
 *
 * @param {number} bytes
 */
export function formatBytes(bytes) {
  let value = bytes
  let unit = 0
  // 1023.6 would be written as 1024 of the smaller unit.
  while (unit < units.length - 1 && value >= (unit === 0 ? 1024 : 1023.5)) {
    value /= 1024
    unit++
  }
  if (unit === 0) return value === 1 ? '1 byte' : `${formatCount(value)} bytes`
  return `${significant(value, 3)} ${units[unit] ?? ''}`
}

/** @param {number} bytesPerSecond */
export function formatRate(bytesPerSecond) {
  return `${formatBytes(bytesPerSecond < 1024 ? Math.round(bytesPerSecond) : bytesPerSecond)}/s`
}

/** @param {number} count */
export function formatCount(count) {
  return count.toLocaleString('en')
}

/**
 * A duration: `0.42 ms`, `12 ms`, `3.1 s`.
 *
 * @param {number} ms
 */
export function formatMs(ms) {
  return ms < 999.5 ? `${significant(ms)} ms` : `${significant(ms / 1000)} s`
}

/**
 * @param {number} value
 * @param {number} [digits] how many there are below 10
 */
function significant(value, digits = 2) {
  if (value >= 99.95) return formatCount(Math.round(value))
  return String(Number(value.toPrecision(value < 0.095 ? 1 : value < 9.95 ? digits : 3)))
}

/**
 * The value below which the given part of the values lies (nearest rank); NaN for none.
 *
 * @param {readonly number[]} values
 * @param {number} part 0 … 1
 */
export function quantile(values, part) {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)] ?? Number.NaN
}

/**
 * Round numbers from 0 to at least `max`, for the marks of an axis; two at the least.
 *
 * @param {number} max
 * @param {number} [countMax] how many steps there may be
 */
export function ticks(max, countMax = 4) {
  // An axis of nothing has a length all the same.
  const length = max > 1e-9 && Number.isFinite(max) ? max : 1
  const rough = length / countMax
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = power * ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) ?? 10)
  const count = Math.ceil(length / step - 1e-9)
  return Array.from({length: count + 1}, (_, index) => Number((index * step).toPrecision(12)))
}

/**
 * The same for sizes, whose round numbers are those of their unit: 0, 8 GiB, 16 GiB, 24 GiB.
 *
 * @param {number} max
 * @param {number} [countMax]
 */
export function byteTicks(max, countMax = 4) {
  const unit =
    1024 ** Math.min(5, Math.max(0, Math.floor(Math.log(Math.max(1, max)) / Math.log(1024))))
  return ticks(max / unit, countMax).map((value) => value * unit)
}

/**
 * Bytes per second over time: each read's bytes are spread evenly over the time it took.
 *
 * Shape: as many values as there are buckets of `bucketMs` up to the last end.
 *
 * @param {readonly {startMs: number, endMs: number, bytes: number}[]} reads times since the first start
 * @param {number} bucketMs
 */
export function throughput(reads, bucketMs) {
  const endMs = Math.max(0, ...reads.map((read) => read.endMs))
  /** @type {number[]} */
  const sums = Array.from({length: Math.max(1, Math.ceil(endMs / bucketMs))}, () => 0)
  for (const {startMs, endMs, bytes} of reads) {
    const tookMs = Math.max(endMs - startMs, 1e-6)
    const last = Math.min(sums.length - 1, Math.floor(endMs / bucketMs))
    for (let bucket = Math.floor(startMs / bucketMs); bucket <= last; bucket++) {
      const from = Math.max(startMs, bucket * bucketMs)
      const to = Math.min(endMs, (bucket + 1) * bucketMs)
      sums[bucket] = (sums[bucket] ?? 0) + (bytes * Math.max(0, to - from)) / tookMs
    }
  }
  return sums.map((bytes, bucket) => {
    const widthMs = Math.min(bucketMs, endMs - bucket * bucketMs)
    return widthMs > 0 ? (bytes / widthMs) * 1000 : 0
  })
}
