import {createHash} from 'node:crypto'
import {readdirSync, readFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {migrations} from '../../../migrations/index.ts'

const dir = join(import.meta.dirname, '../../../migrations')
const released = JSON.parse(
  readFileSync(join(import.meta.dirname, 'released-migrations.json'), 'utf8'),
) as Record<string, string>

describe('migrations', () => {
  it('that were released are never edited: the next one mends what is wrong', () => {
    const files = readdirSync(dir).filter((name) => name !== 'index.ts')
    const hashes = Object.fromEntries(
      files.map((name) => [
        name,
        createHash('sha256')
          .update(readFileSync(join(dir, name)))
          .digest('hex'),
      ]),
    )
    // A new migration's line is added to released-migrations.json by whoever writes it.
    expect(hashes).to.deep.equal(released)
  })

  it('are all in the index, by their file names and in their order', () => {
    const names = Object.keys(released).map((name) => name.replace(/\.ts$/, ''))
    expect(Object.keys(migrations)).to.deep.equal(names.sort())
  })
})
