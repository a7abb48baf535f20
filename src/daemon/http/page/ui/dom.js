/** The few things this page does to the document. Text goes in as text, never as markup. */

/**
 * The element of this id, which page.html has.
 *
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
export function byId(id, type) {
  const found = document.getElementById(id)
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} ${id}`)
  return found
}

/**
 * A new element.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} name
 * @param {Record<string, string>} [attributes]
 * @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
  element.append(...children)
  return element
}

/**
 * The same for drawings.
 *
 * @param {string} name
 * @param {Record<string, string | number>} [attributes]
 * @param {(Node | string)[]} children
 * @returns {SVGElement}
 */
export function draw(name, attributes = {}, ...children) {
  const element = /** @type {SVGElement} */ (
    document.createElementNS('http://www.w3.org/2000/svg', name)
  )
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value))
  element.append(...children)
  return element
}

/**
 * Sets a text only where it changes, so that a selection in it stays.
 *
 * @param {HTMLElement} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/**
 * Tells those who listen rather than look.
 *
 * @param {string} text
 */
export function say(text) {
  const said = byId('said', HTMLElement)
  // The same words twice are news only when they were gone in between.
  said.textContent = ''
  setTimeout(() => (said.textContent = text), 50)
}

/**
 * One line to copy: its label, itself, and a button. The text stands in a field of its own, so that it can also be
 * selected by hand where the browser lets no page write to the clipboard.
 *
 * @param {string} label
 * @param {string} text
 * @param {string} of what it belongs to, for those who hear the buttons one after another
 */
export function copyable(label, text, of) {
  const code = make('code', {}, text)
  const button = make('button', {type: 'button', 'aria-label': `Copy ${label} of ${of}`}, 'Copy')
  button.addEventListener('click', () => void copy(code, button))
  return make('div', {class: 'copyable'}, make('span', {}, label), code, button)
}

/**
 * @param {HTMLElement} code
 * @param {HTMLButtonElement} button
 */
async function copy(code, button) {
  const isCopied = (await copyByClipboard(code.textContent)) || copyBySelection(code)
  say(isCopied ? 'Copied' : 'Selected; copy it with your keyboard')
  button.textContent = isCopied ? 'Copied' : 'Selected'
  setTimeout(() => (button.textContent = 'Copy'), 1600)
}

/** @param {string} text */
async function copyByClipboard(text) {
  try {
    // Not there on a page from another machine without HTTPS.
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    return false
  }
}

/** @param {HTMLElement} code */
function copyBySelection(code) {
  const selection = getSelection()
  if (!selection) return false
  selection.selectAllChildren(code)
  // Deprecated, and the only way where there is no clipboard. What is selected stays selected when it fails.
  // eslint-disable-next-line @typescript-eslint/no-deprecated
  const isCopied = document.execCommand('copy')
  if (isCopied) selection.removeAllRanges()
  return isCopied
}
