import {globSync, readFileSync} from 'node:fs'
import {expect} from 'chai'
import {errorTable} from '../../src/core/errors.ts'

describe('the error table', () => {
  it('has no code that nothing reports', () => {
    const files = globSync('src/**/*.ts')
    const source = files.map((file) => readFileSync(file, 'utf8')).join('\n')
    const unused = Object.keys(errorTable).filter((code) => !source.includes(`'${code}'`))
    expect(unused).to.deep.equal([])
  })

  it('gives every code words and advice that end as sentences do', () => {
    for (const [code, row] of Object.entries(errorTable))
      expect(row.hint, code).to.match(/^[A-Z`].*[.)]$/)
  })
})
