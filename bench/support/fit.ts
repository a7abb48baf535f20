/** A straight line through points, and whether it rises. */

export type Fit = {
  first: number
  last: number
  mean: number
  /** Of the line, in units a minute, and what that is over the whole time. */
  slopePerMinute: number
  growth: number
  /** Standard error of the slope. */
  errorPerMinute: number
  isFlat: boolean
}

/** A growth below this share of the mean is not told from noise in so short a time. */
const flatShare = 0.025

/**
 * Fits by least squares. Flat is what does not rise, what rises by less than 2.5 % of its mean or by less than one over the
 * whole time, and a rise that is within three standard errors.
 */
export function fit(points: readonly (readonly [minute: number, value: number])[]): Fit {
  const n = points.length
  const mean = points.reduce((sum, [, y]) => sum + y, 0) / n
  const middle = points.reduce((sum, [x]) => sum + x, 0) / n
  const spread = points.reduce((sum, [x]) => sum + (x - middle) ** 2, 0)
  const slope =
    spread === 0 ? 0 : points.reduce((sum, [x, y]) => sum + (x - middle) * (y - mean), 0) / spread
  const rest = points.reduce((sum, [x, y]) => sum + (y - mean - slope * (x - middle)) ** 2, 0)
  const error = n > 2 && spread > 0 ? Math.sqrt(rest / (n - 2) / spread) : 0
  const growth = slope * ((points.at(-1)?.[0] ?? 0) - (points[0]?.[0] ?? 0))
  const isFlat = growth < Math.max(1, mean * flatShare) || slope < 3 * error
  const round = (value: number): number => Math.round(value * 1000) / 1000
  return {
    first: round(points[0]?.[1] ?? 0),
    last: round(points.at(-1)?.[1] ?? 0),
    mean: round(mean),
    slopePerMinute: round(slope),
    growth: round(growth),
    errorPerMinute: round(error),
    isFlat,
  }
}
