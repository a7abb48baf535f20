/**
 * Keys that stand twice in a JSON object. `JSON.parse` keeps the last of them and says nothing, so that two readers of
 * one file may see two different things.
 */

export type MemberFaults = {
  /** Keys that the outermost object has twice. */
  root: string[]
  /** For each element of the list that is an object with a key twice: its index, and the first such key. */
  elements: Map<number, string>
}

type Container = {
  isObject: boolean
  /** Keys seen, where they matter. */
  seen: Set<string> | undefined
  /** The key whose value comes next, of an object; how many commas went by, of an array. */
  key: string
  index: number
  role: 'root' | 'list' | 'element' | 'other'
}

/**
 * Finds double keys in the outermost object and in the objects of one list: the outermost array, or the array under
 * `listKey` of the outermost object. Of the elements' keys only `keys` count.
 *
 * Shape: `text` must be valid JSON (`JSON.parse` took it).
 * Cost: one pass; it goes down into nothing, so depth costs memory but no stack.
 */
export function scanMembers(
  text: string,
  listKey: string | undefined,
  keys: readonly string[],
): MemberFaults {
  const faults: MemberFaults = {root: [], elements: new Map()}
  const wanted = new Set(keys)
  const open: Container[] = []
  for (let i = 0; i < text.length; i++) {
    const inner = open.at(-1)
    switch (text[i]) {
      case '{':
      case '[':
        open.push(enter(text[i] === '{', open, listKey))
        break
      case '}':
      case ']':
        open.pop()
        break
      case ',':
        if (inner) inner.index++
        break
      case '"': {
        const end = endOfString(text, i)
        if (inner?.isObject && isKey(text, end)) {
          inner.key = inner.seen || inner.role === 'root' ? readString(text, i, end) : ''
          note(inner, open, faults, wanted)
        }
        i = end
        break
      }
      default:
    }
  }
  return faults
}

function enter(
  isObject: boolean,
  open: readonly Container[],
  listKey: string | undefined,
): Container {
  const outer = open.at(-1)
  let role: Container['role'] = 'other'
  if (!outer) role = isObject ? 'root' : listKey === undefined ? 'list' : 'other'
  else if (outer.role === 'root') role = !isObject && outer.key === listKey ? 'list' : 'other'
  else if (outer.role === 'list') role = isObject ? 'element' : 'other'
  const seen = role === 'root' || role === 'element' ? new Set<string>() : undefined
  return {isObject, seen, key: '', index: 0, role}
}

function note(
  inner: Container,
  open: readonly Container[],
  faults: MemberFaults,
  wanted: ReadonlySet<string>,
): void {
  if (!inner.seen) return
  const isDouble = inner.seen.has(inner.key)
  inner.seen.add(inner.key)
  if (!isDouble) return
  if (inner.role === 'root') faults.root.push(inner.key)
  const index = open.at(-2)?.index ?? 0
  if (inner.role === 'element' && wanted.has(inner.key) && !faults.elements.has(index))
    faults.elements.set(index, inner.key)
}

/** The index of the quote that ends the string which begins at `from`. */
function endOfString(text: string, from: number): number {
  let at = from + 1
  while (at < text.length && text[at] !== '"') at += text[at] === '\\' ? 2 : 1
  return at
}

/** Whether a string of an object that ends at `end` is a key: a colon follows it, and never a value. */
function isKey(text: string, end: number): boolean {
  let at = end + 1
  while (at < text.length && ' \t\r\n'.includes(text.charAt(at))) at++
  return text[at] === ':'
}

function readString(text: string, from: number, end: number): string {
  const raw = text.slice(from + 1, end)
  return raw.includes('\\') ? (JSON.parse(`"${raw}"`) as string) : raw
}
