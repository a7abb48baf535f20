/** Runs inside a browser: looks at a page as a person with poor sight would have it measured. */

/** Texts whose contrast with what is behind them is below WCAG AA: `text, ratio, colours`. Disabled controls are exempt. */
export function poorContrasts() {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true})
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1)
    canvas.fillStyle = colour
    canvas.fillRect(0, 0, 1, 1)
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data
    return {rgb: [r, g, b], a: a / 255}
  }
  const luminance = ({rgb}) =>
    rgb
      .map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
      .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0)
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor
      if (rgba(colour).a === 1) return colour
    }
    return 'white'
  }
  const poor = []
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim()
    const element = walker.currentNode.parentElement
    if (text === '' || element.matches('.hidden, .skip, :disabled, noscript, option')) continue
    if (!element.checkVisibility({visibilityProperty: true})) continue
    const style = getComputedStyle(element)
    const front = element instanceof SVGElement ? style.fill : style.color
    const back = behind(element)
    const [light, dark] = [luminance(rgba(front)), luminance(rgba(back))].sort((a, b) => b - a)
    const ratio = (light + 0.05) / (dark + 0.05)
    const size = parseFloat(style.fontSize)
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700)
    if (ratio < (isLarge ? 3 : 4.5)) poor.push(`${text}: ${ratio.toFixed(2)} (${front} on ${back})`)
  }
  return poor
}
