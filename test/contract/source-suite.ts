/** What every source promises, whatever is behind it. */
import {expect} from 'chai'
import {ImgstoreError} from '../../src/core/errors.ts'
import {MiB} from '../../src/core/limits.ts'
import type {Source, SourceOptions} from '../../src/core/sources/source.ts'
import {readBody, rejection, sourceOptions} from '../support/source-options.ts'

/** A peer that holds one object. */
export type SourcePeer = {
  open(options: SourceOptions): Promise<Source>
  /** A source for an object that is not there. */
  openMissing(options: SourceOptions): Promise<Source>
  replaceContent(content: Buffer): Promise<void> | void
  close(): Promise<void>
}

const {signal} = new AbortController()

export function sourceSuite(
  name: string,
  makePeer: (content: Buffer) => Promise<SourcePeer>,
): void {
  describe(`the source contract, kept by ${name}`, () => {
    const content = Buffer.alloc(3 * MiB + 1234)
    for (let i = 0; i + 4 <= content.length; i += 4) content.writeUInt32BE(i, i)
    let peer: SourcePeer
    let source: Source

    beforeEach(async () => {
      peer = await makePeer(content)
      source = await peer.open(sourceOptions())
    })
    afterEach(() => peer.close())

    it('gives everything, its size and a validator', async () => {
      const opened = await source.open({startByte: 0, signal})
      expect(opened.answer).to.equal('whole')
      expect(opened.startByte).to.equal(0)
      expect(opened.totalBytes).to.equal(content.length)
      expect(opened.validator).to.be.a('string')
      expect((await readBody(opened)).equals(content)).to.equal(true)
    })

    it('gives the rest from any byte on', async () => {
      const first = await source.open({startByte: 0, signal})
      await first.close()
      const validator = first.validator ?? ''
      for (const startByte of [1, 4096, MiB, content.length - 1]) {
        const opened = await source.open({startByte, validator, signal})
        expect(opened.answer).to.equal('range')
        expect(opened.startByte).to.equal(startByte)
        expect(opened.totalBytes).to.equal(content.length)
        expect((await readBody(opened)).equals(content.subarray(startByte))).to.equal(true)
      }
    })

    it('says that nothing is left at the end', async () => {
      const opened = await source.open({startByte: content.length, signal})
      expect(opened.answer).to.equal('nothing_left')
      expect((await readBody(opened)).length).to.equal(0)
    })

    it('gives everything when the content is no longer that of the validator', async () => {
      const first = await source.open({startByte: 0, signal})
      await first.close()
      const other = Buffer.alloc(2 * MiB, 7)
      await peer.replaceContent(other)
      const opened = await source.open({startByte: 5, validator: first.validator ?? '', signal})
      expect(opened.answer).to.equal('whole')
      expect(opened.validator).not.to.equal(first.validator)
      expect((await readBody(opened)).equals(other)).to.equal(true)
    })

    it('says source_not_found for what is not there', async () => {
      const missing = await peer.openMissing(sourceOptions())
      const error = await rejection(missing.open({startByte: 0, signal}))
      expect(error).to.be.instanceOf(ImgstoreError).with.property('code', 'source_not_found')
    })

    it('refuses what is larger than the limit before any byte of it', async () => {
      const limited = await peer.open(sourceOptions({maxBlobBytes: content.length - 1}))
      const error = await rejection(limited.open({startByte: 0, signal}))
      expect(error).to.be.instanceOf(ImgstoreError).with.property('code', 'source_too_large')
    })

    it('stops with the reason when the caller gives up, before and while reading', async () => {
      const reason = new Error('enough')
      const before = AbortSignal.abort(reason)
      expect(await rejection(source.open({startByte: 0, signal: before}))).to.equal(reason)
      const controller = new AbortController()
      const opened = await source.open({startByte: 0, signal: controller.signal})
      const reading = (async () => {
        for await (const batch of opened.body) {
          expect(batch.length).to.be.greaterThan(0)
          controller.abort(reason)
        }
      })()
      expect(await rejection(reading)).to.equal(reason)
    })

    it('can be closed unread, twice, and opened again', async () => {
      const opened = await source.open({startByte: 0, signal})
      await opened.close()
      await opened.close()
      const again = await source.open({startByte: 0, signal})
      expect((await readBody(again)).length).to.equal(content.length)
    })
  })
}
