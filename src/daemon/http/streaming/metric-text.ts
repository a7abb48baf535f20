/** The text format of Prometheus, for the counters that every request touches and that therefore are plain numbers. */

export type Labels = Readonly<Record<string, string>>

export type Series = {labels: Labels; value: number}

/** One counter or gauge with its series; labels are written in alphabetical order. */
export function metricText(o: {
  name: string
  help: string
  type: 'counter' | 'gauge'
  series: readonly Series[]
}): string {
  const lines = o.series.map(({labels, value}) => `${o.name}${labelText(labels)} ${value}\n`)
  return `# HELP ${o.name} ${o.help}\n# TYPE ${o.name} ${o.type}\n${lines.join('')}`
}

/** Counts observations in buckets with upper bounds, inclusive; cheap enough for every request. */
export class Buckets {
  readonly bounds: readonly number[]
  readonly counts: number[]
  sum = 0
  count = 0

  constructor(bounds: readonly number[]) {
    this.bounds = bounds
    this.counts = bounds.map(() => 0)
  }

  observe(value: number): void {
    this.sum += value
    this.count++
    for (let i = 0; i < this.bounds.length; i++) {
      if (value > (this.bounds[i] ?? 0)) continue
      this.counts[i] = (this.counts[i] ?? 0) + 1
      return
    }
  }
}

export function histogramText(o: {
  name: string
  help: string
  series: readonly {labels: Labels; buckets: Buckets}[]
}): string {
  const lines = o.series.map(({labels, buckets}) => {
    let total = 0
    const bounds = buckets.bounds.map((bound, i) => {
      total += buckets.counts[i] ?? 0
      return bucketLine(o.name, labels, String(bound), total)
    })
    return [
      ...bounds,
      bucketLine(o.name, labels, '+Inf', buckets.count),
      `${o.name}_sum${labelText(labels)} ${buckets.sum}\n`,
      `${o.name}_count${labelText(labels)} ${buckets.count}\n`,
    ].join('')
  })
  return `# HELP ${o.name} ${o.help}\n# TYPE ${o.name} histogram\n${lines.join('')}`
}

function bucketLine(name: string, labels: Labels, le: string, value: number): string {
  return `${name}_bucket${labelText({...labels, le})} ${value}\n`
}

function labelText(labels: Labels): string {
  const names = Object.keys(labels).sort()
  if (names.length === 0) return ''
  return `{${names.map((name) => `${name}="${escapeLabel(labels[name] ?? '')}"`).join(',')}}`
}

function escapeLabel(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
}
