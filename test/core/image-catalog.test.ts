import {expect} from 'chai'
import fc from 'fast-check'
import {parseCatalog, type Catalog, type CatalogEntry} from '../../src/core/image-catalog.ts'

const plain = {id: 'a', file: 'a.img', name: 'A'}

const parse = (text: string): Catalog => parseCatalog(Buffer.from(text))
const of = (...images: unknown[]): Catalog => parse(JSON.stringify({images}))

function entryOf(fields: object): CatalogEntry {
  const catalog = of({...plain, ...fields})
  if (!catalog.isValid || catalog.entries[0] === undefined)
    throw new Error(`refused: ${JSON.stringify(catalog)}`)
  return catalog.entries[0]
}

/** Why an entry with these fields is left out, while its neighbour stays. */
function problemOf(fields: object): string {
  const catalog = of({...plain, ...fields}, {...plain, id: 'b'})
  if (!catalog.isValid) throw new Error(`invalid: ${catalog.reason}`)
  expect(catalog.entries.map(({id}) => id)).to.deep.equal(['b'])
  expect(catalog.problems).to.have.length(1)
  return catalog.problems[0]?.reason ?? ''
}

function invalid(text: string | Buffer): string {
  const catalog = parseCatalog(Buffer.from(text))
  if (catalog.isValid) throw new Error(`taken: ${JSON.stringify(catalog.entries)}`)
  return catalog.reason
}

describe('a catalog', () => {
  it('is an object with images, or the bare list, in its order', () => {
    const images = [plain, {...plain, id: 'B'}, {...plain, id: '0'}]
    const wrapped = of(...images)
    expect(wrapped).to.deep.equal(parse(JSON.stringify(images)))
    expect(wrapped).to.deep.equal({
      isValid: true,
      entries: ['a', 'B', '0'].map((id) => ({id, file: 'a.img', name: 'A', isPublic: true})),
      problems: [],
    })
  })

  it('gives every field of an entry', () => {
    expect(
      entryOf({
        description: 'netinst',
        public: false,
        etag: ' "r3" ',
        last_modified: ' 2026-01-10T00:00:00.5Z ',
        recommended_chunk_size_bytes: 1_048_576,
        chunked_version: ' r3 ',
        content_type: 'text/html',
        extra: {deep: [1, {id: 1}]},
      }),
    ).to.deep.equal({
      ...plain,
      isPublic: false,
      description: 'netinst',
      etag: '"r3"',
      modifiedNs: 1_768_003_200_500_000_000n,
      recommendedChunkSize: 1_048_576,
      chunkedVersion: 'r3',
    })
  })

  it('takes null where there may be nothing', () => {
    const nothing = Object.fromEntries(
      [
        'description',
        'etag',
        'last_modified',
        'recommended_chunk_size_bytes',
        'chunked_version',
        'content_type',
      ].map((field) => [field, null]),
    )
    expect(entryOf(nothing)).to.deep.equal({...plain, isPublic: true})
  })

  it('takes odd but harmless values', () => {
    expect(entryOf({name: '', recommended_chunk_size_bytes: 0})).to.include({
      name: '',
      recommendedChunkSize: 0,
    })
    for (const file of ['./a', 'x/./y', 'a..b', '...', 'a\\..\\b', 'ü', 'x'.repeat(512), '.'])
      expect(entryOf({file}).file).to.equal(file)
    expect(entryOf({etag: 'w/"x"'}).etag).to.equal('w/"x"')
    expect(entryOf({description: 'ü'.repeat(10_000)}).description).to.have.length(10_000)
  })

  it('is invalid as a whole when its text cannot be trusted', () => {
    expect(invalid('')).to.include('not JSON')
    expect(invalid('{')).to.include('not JSON')
    expect(invalid(`${JSON.stringify([plain])} x`)).to.include('not JSON')
    expect(invalid(`\ufeff${JSON.stringify([plain])}`)).to.include('byte order mark')
    expect(invalid(Buffer.from([0x22, 0xff, 0x22]))).to.include('UTF-8')
    for (const text of ['null', '7', '"a"']) expect(invalid(text)).to.include('neither')
    expect(invalid('{}')).to.include('has no "images"')
    expect(invalid('{"__proto__": []}')).to.include('has no "images"')
    expect(invalid('{"images": null}')).to.include('not an array')
    expect(invalid('{"images": {}}')).to.include('not an array')
    expect(invalid('[]')).to.equal('it has no images')
    expect(invalid('{"images": []}')).to.equal('it has no images')
    expect(invalid(JSON.stringify([plain, {...plain, id: 'b'}, plain]))).to.equal(
      'the id "a" is in it twice (entries 1 and 3)',
    )
    const list = JSON.stringify([plain])
    expect(invalid(`{"images": ${list}, "im\\u0061ges": ${list}}`)).to.include('twice')
  })

  it('counts an id twice even where one of the two entries is bad', () => {
    expect(invalid(JSON.stringify([{id: 'a'}, plain]))).to.include('twice')
  })

  it('leaves out an entry with a bad field and names entry and field', () => {
    expect(problemOf({etag: 'x'})).to.equal(
      'field "etag" is not of the form "…" or W/"…"; it is "x"',
    )
    expect(problemOf({file: undefined})).to.equal('field "file" is missing')
    for (const [field, values] of Object.entries({
      file: ['', '/a', '..', 'a/../b', 'a/..', 'a\0b', 'ü'.repeat(257), 7, null, '\ud800'],
      name: [null, 7, ['a'], '\udc00'],
      description: [7, {}],
      public: [null, 'true', 1],
      content_type: [7],
      recommended_chunk_size_bytes: [-1, 1.5, '1', 2 ** 53, true],
      chunked_version: ['', ' ', '.', 'a/b', 7, 'x'.repeat(129)],
      etag: ['', 'a', '"a b"', '"a', `"${'x'.repeat(1023)}"`, '"ü"', 7],
      last_modified: ['', '2026-01-10', '1969-12-31T23:59:59Z', 'yesterday', 0],
    }))
      for (const value of values) {
        const reason = problemOf({[field]: value})
        expect(reason, `${field}: ${JSON.stringify(value)}`).to.include(`field "${field}"`)
        expect(reason).to.have.length.lessThan(600)
      }
  })

  it('names an entry without an id by its place', () => {
    const catalog = of(7, {...plain, id: '../x'}, {file: 'x', name: 'x'}, plain, null, [])
    expect(catalog.isValid && catalog.entries).to.have.length(1)
    expect(catalog.isValid && catalog.problems).to.deep.equal([
      {id: 'entry 1', reason: 'is not an object'},
      {
        id: 'entry 2',
        reason:
          'field "id" must be 1 to 128 of the characters A-Z a-z 0-9 . _ -, and not "." or ".."; it is "../x"',
      },
      {id: 'entry 3', reason: 'field "id" is missing'},
      {id: 'entry 5', reason: 'is not an object'},
      {id: 'entry 6', reason: 'is not an object'},
    ])
  })

  it('leaves out an entry that has a field twice, however it is spelt', () => {
    const twice = '{"id": "a", "file": "x", "name": "A", "f\\u0069le" : "y"}'
    for (const text of [`[${twice}]`, `{"x": [{"id": 1, "id": 2}], "images": [${twice}]}`]) {
      const catalog = parse(text)
      expect(catalog.isValid && catalog.problems).to.deep.equal([
        {id: 'a', reason: 'has the field "file" twice'},
      ])
    }
    const other =
      '[{"id": "a", "file": "x", "name": "{\\"id\\":1}", "x": 1, "x": {"id": 1, "id": 2}}]'
    expect(parse(other)).to.deep.include({problems: []})
  })

  it('takes no field from where there is none', () => {
    const catalog = parse('[{"id": "a", "name": "A", "__proto__": {"file": "x"}}]')
    expect(catalog.isValid && catalog.problems).to.deep.equal([
      {id: 'a', reason: 'field "file" is missing'},
    ])
  })

  it('is read from any bytes without an exception', () => {
    const value = fc.oneof(
      fc.json(),
      fc.json().map((json) => `{"images": [${json}, {"id": ${json}}]}`),
      fc.string(),
    )
    fc.assert(
      fc.property(value, (text) => {
        const catalog = parse(text)
        if (catalog.isValid)
          expect(catalog.entries.length + catalog.problems.length).to.be.greaterThan(0)
        else expect(catalog.reason).not.to.equal('')
      }),
      {numRuns: 500},
    )
  })
})
