/**
 * Small plots with axes, drawn as SVG at the size of their box, so that their text has the size of the page's text.
 *
 * @typedef {object} Axis
 * @property {number[]} ticks from 0 upwards; the last one ends the axis
 * @property {(value: number) => string} format
 * @property {string} label
 *
 * @typedef {object} Mark
 * @property {number} x
 * @property {number} y
 * @property {string} kind a class, and the shape: `dot`, `square`, `cross`, or `tick` on the x axis
 *
 * @typedef {object} Plot
 * @property {string} text what the plot says, in words
 * @property {Axis} x
 * @property {Axis} [y] none: marks stand on the x axis
 * @property {readonly {x: number, y: number}[]} [line] drawn with an area below
 * @property {readonly Mark[]} [marks]
 * @property {{y: number, text: string}} [level] a line across
 * @property {number} height in CSS pixels
 */
import {draw} from './dom.js'

const left = 62
const right = 12
const top = 10
const bottom = 40

/** @type {WeakMap<Element, Plot>} */
const shown = new WeakMap()
const resized = new ResizeObserver((entries) => {
  for (const {target} of entries) {
    const plot = shown.get(target)
    if (plot) render(target, plot)
  }
})

/**
 * Draws `plot` into `box`, and again whenever the box changes its width.
 *
 * @param {Element} box
 * @param {Plot} plot
 */
export function showPlot(box, plot) {
  if (!shown.has(box)) resized.observe(box)
  shown.set(box, plot)
  render(box, plot)
}

/**
 * @param {Element} box
 * @param {Plot} plot
 */
function render(box, plot) {
  const width = Math.max(160, Math.floor(box.clientWidth))
  const {height, text} = plot
  const inset = plot.y ? left : right
  const area = {x0: inset, x1: width - right, y0: height - bottom, y1: top}
  const svg = draw('svg', {
    viewBox: `0 0 ${width} ${height}`,
    width,
    height,
    role: 'img',
    'aria-label': text,
  })
  const xMax = plot.x.ticks.at(-1) ?? 1
  const yMax = plot.y?.ticks.at(-1) ?? 1
  const x = (/** @type {number} */ value) => area.x0 + (value / xMax) * (area.x1 - area.x0)
  const y = (/** @type {number} */ value) => area.y0 - (value / yMax) * (area.y0 - area.y1)

  svg.append(...xAxis(plot.x, x, area), ...(plot.y ? yAxis(plot.y, y, area) : []))
  if (plot.line && plot.line.length > 0) {
    const points = plot.line.map((point) => `${round(x(point.x))},${round(y(point.y))}`)
    const [first, last] = [plot.line[0], plot.line.at(-1)]
    const base = `${round(x(last?.x ?? 0))},${area.y0} ${round(x(first?.x ?? 0))},${area.y0}`
    svg.append(draw('polygon', {class: 'area', points: `${points.join(' ')} ${base}`}))
    svg.append(draw('polyline', {class: 'line', points: points.join(' ')}))
  }
  for (const mark of plot.marks ?? []) svg.append(drawMark(mark.kind, x(mark.x), y(mark.y)))
  if (plot.level) {
    const at = round(y(plot.level.y))
    svg.append(draw('line', {class: 'level', x1: area.x0, x2: area.x1, y1: at, y2: at}))
    const above = at - 5 < area.y1 + 8 ? at + 14 : at - 5
    svg.append(
      draw('text', {class: 'on', x: area.x1 - 4, y: above, 'text-anchor': 'end'}, plot.level.text),
    )
  }
  box.replaceChildren(svg)
}

/** @typedef {{x0: number, x1: number, y0: number, y1: number}} Area */

/**
 * @param {Axis} axis
 * @param {(value: number) => number} x
 * @param {Area} area
 */
function xAxis({ticks, format, label}, x, {x0, x1, y0}) {
  // Narrow: every second one.
  const every = (x1 - x0) / ticks.length < 56 ? 2 : 1
  const marks = ticks.flatMap((value, index) => {
    if (index % every !== 0) return []
    const at = round(x(value))
    const anchor = index === 0 ? 'start' : index === ticks.length - 1 ? 'end' : 'middle'
    return [
      draw('line', {class: 'axis', x1: at, x2: at, y1: y0, y2: y0 + 4}),
      draw('text', {x: at, y: y0 + 17, 'text-anchor': anchor}, format(value)),
    ]
  })
  return [
    draw('line', {class: 'axis', x1: x0, x2: x1, y1: y0, y2: y0}),
    ...marks,
    draw('text', {class: 'name', x: (x0 + x1) / 2, y: y0 + 34, 'text-anchor': 'middle'}, label),
  ]
}

/**
 * @param {Axis} axis
 * @param {(value: number) => number} y
 * @param {Area} area
 */
function yAxis({ticks, format, label}, y, {x0, x1, y0, y1}) {
  const marks = ticks.flatMap((value) => {
    const at = round(y(value))
    return [
      draw('line', {class: 'grid', x1: x0, x2: x1, y1: at, y2: at}),
      draw('text', {x: x0 - 7, y: at + 4, 'text-anchor': 'end'}, format(value)),
    ]
  })
  const middle = (y0 + y1) / 2
  const turned = {transform: `rotate(-90 11 ${middle})`, 'text-anchor': 'middle'}
  return [...marks, draw('text', {class: 'name', x: 11, y: middle, ...turned}, label)]
}

/**
 * @param {string} kind
 * @param {number} x
 * @param {number} y
 */
function drawMark(kind, x, y) {
  const [cx, cy] = [round(x), round(y)]
  if (kind === 'cross') return draw('path', {class: kind, d: `M${cx - 4} ${cy - 4}l8 8m0 -8l-8 8`})
  if (kind === 'square')
    return draw('rect', {class: kind, x: cx - 3, y: cy - 3, width: 6, height: 6})
  if (kind === 'tick') return draw('line', {class: kind, x1: cx, x2: cx, y1: cy - 9, y2: cy + 9})
  return draw('circle', {class: kind, cx, cy, r: 3.2})
}

/** @param {number} value */
const round = (value) => Math.round(value * 10) / 10
