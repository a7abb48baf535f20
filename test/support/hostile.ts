/** Input as nobody should give it, and what every answer to it must be like. */
import {readdirSync} from 'node:fs'
import {join} from 'node:path'
import {exitCodes} from '../../src/core/errors.ts'

/** In everything here that is a secret; it must never be shown. */
export const canary = 'CaNaRyHuNtEr2'

/** Texts for any place at all. */
export const hostileTexts: readonly string[] = [
  '',
  ' ',
  '-',
  '--',
  '--json',
  '-q',
  '.',
  '..',
  '../../evil',
  '/etc/passwd',
  'a/../../../evil',
  '..\\evil',
  '%2e%2e%2fevil',
  'a\u0000b',
  'a\nb',
  '\r\nX: y',
  '\t',
  '\u001b[3J\u001b[41;5mred',
  '\u001b]0;title\u0007',
  '\u009b31mred',
  '\u009d0;title\u009c',
  '\u0007\u0008\u007f',
  '\u202egnp.exe',
  '\u2066\u2067\u2069',
  '\u200b\ufeff',
  '\u2028\u2029',
  '\ud800',
  '🚀',
  'é',
  '日本',
  'x'.repeat(129),
  'x'.repeat(100_000),
  '__proto__',
  'constructor',
  'toString',
  'hasOwnProperty',
  '$(id)`id`;id|id',
  '\'"\\',
  '{"a":1}',
  '%s%n%d',
  '0',
  '-1',
  '1e999',
  'NaN',
  'Infinity',
  '0x10',
  '1.5',
  '99999999999999999999999',
  '1KiB',
  '-5s',
  '5 s',
  'true',
  'null',
  'one',
]

/** Addresses; those with a secret in them all end at a closed port or nowhere. */
export const hostileUrls: readonly string[] = [
  `http://user:${canary}@127.0.0.1:1/x.tar`,
  `http://user:${canary}@127.0.0.1:1/x.tar?token=${canary}&a=\u001b[41;5m`,
  `https://127.0.0.1:1/x?X-Amz-Signature=${canary}#${canary}`,
  `HTTP://U:${canary}@127.0.0.1:1/`,
  ` http://u:${canary}@127.0.0.1:1/`,
  `http://u:${canary}@127.0.0.1:1/a b`,
  `http://u:${canary}@[::1`,
  `http://u:${canary}@127.0.0.1:99999/`,
  `http://u:${canary}%zz@127.0.0.1:1/`,
  `http://u:${canary}\u001b[41;5m@127.0.0.1:1/`,
  `http://u:${canary}@127.0.0.1:1/\u202etar`,
  `http:u:${canary}@127.0.0.1:1/`,
  `http:/u:${canary}@127.0.0.1:1/`,
  `//u:${canary}@127.0.0.1:1/`,
  `u:${canary}@127.0.0.1:1/`,
  `ftp://u:${canary}@127.0.0.1:1/`,
  `s3://u:${canary}@bucket/key`,
  `s3://bucket/key?X-Amz-Security-Token=${canary}`,
  `s3://bucket/${'k'.repeat(3000)}`,
  's3://\u001b/key',
  's3:///key',
  'javascript:alert(1)',
  'data:text/plain,x',
  'file:///etc/passwd',
  'file://../etc/passwd',
  'file:///%00',
  'http://',
  'http://\u202e/',
  'http://xn--/',
  `http://127.0.0.1:1/${'x'.repeat(9000)}`,
]

export const hostileDigests: readonly string[] = [
  'sha256:',
  `sha256:${'a'.repeat(63)}`,
  `sha256:${'g'.repeat(64)}`,
  `sha512:${'a'.repeat(128)}`,
  'A'.repeat(64),
  ` ${'a'.repeat(64)}`,
  `${'a'.repeat(64)}\n`,
  `../${'a'.repeat(61)}`,
  '０'.repeat(64),
]

/** Control characters but line ends and tabs, and what hides or turns text around. */
const rawControl =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/

/** A line of a stack: `    at function (file:1:2)`. */
const stackLine = /^\s+at .*(:\d+:\d+|\(<anonymous>\)|\[native)/m

export type Answer = {stdout: string; stderr: string; exit: number | null}

/** The program answered as it should to anything: with a code of its table, in plain text, and without telling. */
export function expectCivil(what: () => string, {stdout, stderr, exit}: Answer): void {
  const said = `${stdout}\n${stderr}`
  const control = rawControl.exec(said)
  const faults = [
    !Object.keys(exitCodes).includes(String(exit)) && `exit ${exit}`,
    exit === 70 && 'a bug',
    stackLine.test(said) && 'a stack',
    said.includes('(node:') && 'a warning of Node',
    control && `raw ${JSON.stringify(control[0])} at ${control.index}`,
    said.includes(canary) && 'the secret',
    exit !== 0 && said.trim() === '' && 'no word of why',
  ].filter(Boolean)
  if (faults.length > 0)
    throw new Error(`${faults.join(', ')} after ${what()}\n${JSON.stringify(said.slice(0, 3000))}`)
}

/** Everything below a directory but `skip`, by path. */
export function listAround(dir: string, skip: readonly string[]): string[] {
  const found: string[] = []
  const walk = (path: string): void => {
    for (const entry of readdirSync(join(dir, path), {withFileTypes: true})) {
      const name = path === '' ? entry.name : `${path}/${entry.name}`
      if (skip.some((one) => name === one || name.startsWith(`${one}-`))) continue
      found.push(name)
      if (entry.isDirectory()) walk(name)
    }
  }
  walk('')
  return found.sort()
}

/** Bytes that a file must not have: random ones, and `right` ones bent. */
export function bentBytes(random: () => number, right: Buffer): Buffer {
  const at = (length: number): number => Math.floor(random() * length)
  switch (at(8)) {
    case 0:
      return Buffer.alloc(0)
    case 1:
      return Buffer.from(Array.from({length: at(300)}, () => at(256)))
    case 2:
      return right.subarray(0, at(right.length))
    case 3:
      return Buffer.concat([right, right])
    case 4: {
      const bent = Buffer.from(right)
      for (let i = 0; i < 3 && bent.length > 0; i++) bent[at(bent.length)] = at(256)
      return bent
    }
    case 5:
      return Buffer.from(JSON.stringify(anyJson(random, 3)))
    case 6:
      return Buffer.from('['.repeat(100_000))
    default:
      return bentJson(random, right)
  }
}

/** A document in which one value became another. */
function bentJson(random: () => number, right: Buffer): Buffer {
  let parsed: unknown
  try {
    parsed = JSON.parse(right.toString())
  } catch {
    return Buffer.from(hostileTexts[Math.floor(random() * hostileTexts.length)] ?? '')
  }
  const places: [Record<string, unknown>, string][] = []
  const walk = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return
    for (const key of Object.keys(value)) {
      places.push([value as Record<string, unknown>, key])
      walk((value as Record<string, unknown>)[key])
    }
  }
  walk(parsed)
  const [holder, key] = places[Math.floor(random() * places.length)] ?? []
  if (holder && key !== undefined) holder[key] = anyJson(random, 2)
  return Buffer.from(JSON.stringify(parsed))
}

function anyJson(random: () => number, depth: number): unknown {
  const values = [null, true, 0, -1, 1.5, 1e300, 2 ** 53, [], {}, '', ...hostileTexts.slice(8)]
  const pick = Math.floor(random() * (values.length + 6))
  if (depth === 0 || pick < values.length) return values[pick] ?? null
  if (pick % 2 === 0) return Array.from({length: 3}, () => anyJson(random, depth - 1))
  return {
    __proto__x: anyJson(random, depth - 1),
    [hostileTexts[pick] ?? 'a']: anyJson(random, depth - 1),
  }
}
