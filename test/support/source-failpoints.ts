import {readFileSync, readdirSync} from 'node:fs'
import {join} from 'node:path'
import {imageSteps} from '../../src/core/images/lifecycle.ts'

/** Every failpoint of the sources; the journal has one for each step of an image. */
export function failpointsOfSources(): string[] {
  const names = new Set<string>()
  for (const file of readdirSync('src', {recursive: true, encoding: 'utf8'})) {
    if (!file.endsWith('.ts') || file === 'core/failpoint.ts') continue
    for (const [, name = ''] of readFileSync(join('src', file), 'utf8').matchAll(
      /\bfailpoint\(\s*['"`]([^'"`]+)['"`]/g,
    )) {
      if (name === 'journal.${record.step}')
        for (const step of imageSteps) names.add(`journal.${step}`)
      else names.add(name)
    }
  }
  return [...names].sort()
}

/** Those of publishing disk images: no store and no worker is there to go on. */
export function isOfPublishing(name: string): boolean {
  return name.startsWith('streams.')
}

/** Those of backups: what dies is no worker, and what is looked at is the database that is there. */
export function isOfBackups(name: string): boolean {
  return /^(backups|restore)\./.test(name)
}
