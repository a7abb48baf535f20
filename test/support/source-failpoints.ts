import {readFileSync, readdirSync} from 'node:fs'
import {join} from 'node:path'
import {imageSteps} from '../../src/core/images/lifecycle.ts'

/** Every place of the sources with a failpoint, by its name; the journal has one for each step of an image. */
function placesOfSources(): [name: string, place: string][] {
  const found: [string, string][] = []
  for (const file of readdirSync('src', {recursive: true, encoding: 'utf8'})) {
    if (!file.endsWith('.ts') || file === 'core/failpoint.ts') continue
    const lines = readFileSync(join('src', file), 'utf8').split('\n')
    for (const [i, line] of lines.entries()) {
      // Comments speak of them too.
      if (!/^[^/*]*\bfailpoint\(/.test(line)) continue
      const place = `${file}:${i + 1}`
      const [, name] = /\bfailpoint\('([\w.]+)'\)/.exec(line) ?? []
      if (line.includes('failpoint(`journal.${record.step}`)'))
        for (const step of imageSteps) found.push([`journal.${step}`, place])
      else if (name === undefined) throw new Error(`the failpoint at ${place} has no plain name`)
      else found.push([name, place])
    }
  }
  return found
}

/** Their names. */
export function failpointsOfSources(): string[] {
  return [...new Set(placesOfSources().map(([name]) => name))].sort()
}

/** Names that more than one place has: dying at one of these would leave the others untried. */
export function namesOfManyFailpoints(): string[] {
  const names = placesOfSources().map(([name]) => name)
  return names.filter((name, i) => names.indexOf(name) !== i)
}

/** Those of publishing disk images: no store and no worker is there to go on. */
export function isOfPublishing(name: string): boolean {
  return name.startsWith('streams.')
}

/** Those of backups: what dies is no worker, and what is looked at is the database that is there. */
export function isOfBackups(name: string): boolean {
  return /^(backups|restore)\./.test(name)
}
