import {expect} from 'chai'
import fc from 'fast-check'
import {scanMembers} from '../../src/core/json-members.ts'

describe('keys that stand twice', () => {
  it('are found in the outermost object and in the elements of the list alone', () => {
    const text =
      '{"l": [{"a": 1, "a": 2}, 7, {"a": 1, "x": 1, "x": 2}, {"a": [{"a": 1, "a": 2}]}], "k": 1, "k": {"k": 1, "k": 2}}'
    const faults = scanMembers(text, 'l', ['a'])
    expect(faults.root).to.deep.equal(['k'])
    expect([...faults.elements]).to.deep.equal([[0, 'a']])
  })

  it('are found in exactly the elements that were written so, whatever else the text holds', () => {
    const key = fc.constantFrom('a', 'b', 'c\n"', '\\', '{"a":')
    const value = fc.oneof(
      fc.json({maxDepth: 2}),
      fc.constantFrom('"a"', '":"', '[]', '{}', '-1e5'),
    )
    const blank = fc.constantFrom('', ' ', '\n\t')
    const member = fc.tuple(key, value, blank, fc.boolean())
    const write = (members: [string, string, string, boolean][]): string =>
      `{${members
        .map(([k, v, s, isEscaped]) => {
          const hex = k.charCodeAt(0).toString(16).padStart(4, '0')
          const name = isEscaped
            ? `"\\u${hex}${JSON.stringify(k.slice(1)).slice(1)}`
            : JSON.stringify(k)
          return `${s}${name}${s}:${s}${v}${s}`
        })
        .join(',')}}`
    fc.assert(
      fc.property(fc.array(fc.array(member, {maxLength: 4}), {maxLength: 5}), (elements) => {
        const text = `[${elements.map(write).join(',')}]`
        JSON.parse(text)
        const expected: number[] = []
        for (const [index, members] of elements.entries()) {
          const names = members.map(([name]) => name).filter((name) => name !== 'b')
          if (new Set(names).size < names.length) expected.push(index)
        }
        const wanted = ['a', 'c\n"', '\\', '{"a":']
        expect([...scanMembers(text, undefined, wanted).elements.keys()]).to.deep.equal(expected)
        const wrapped = `{"x": ${text}, "l": ${text}}`
        expect([...scanMembers(wrapped, 'l', wanted).elements.keys()]).to.deep.equal(expected)
      }),
      {numRuns: 1000},
    )
  })

  it('are looked for without a stack, however deep the text is', () => {
    const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`
    expect(scanMembers(`[{"a": ${deep}, "a": 1}]`, undefined, ['a']).elements.get(0)).to.equal('a')
  })
})
