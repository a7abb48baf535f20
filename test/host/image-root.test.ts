/** The root of a mounted image: its mode, owner, time and attributes are the image's, whoever mounts it. */
import {chmodSync, statSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {lgetxattr, llistxattr} from '../../src/core/syscalls/files.ts'
import {kindsOf, mountKinds, placesOf, reached, removed} from '../support/backend-image.ts'
import {sha256} from '../support/image-maker.ts'
import {requires} from '../support/requires.ts'
import {archive, directory, file, pax} from '../support/tar-builder.ts'
import {withTempStore} from '../support/temp-store.ts'

const bytes = archive(
  pax([
    ['SCHILY.xattr.user.of-the-root', 'value'],
    ['SCHILY.xattr.trusted.of-the-root', 'secret'],
    ['mtime', '1000000000.5'],
  ]),
  directory('./', {mode: 0o3751, uid: 12, gid: 34, mtime: 1_000_000_000}),
  file('file', 'x'),
)

describe('the root of a mounted image', () => {
  requires('root')

  for (const backend of ['dir', 'erofs'] as const)
    it(`is the image's own, also where new files are for nobody else: ${backend}`, () =>
      withTempStore(
        async ({store, dir, storeDir}) => {
          const blob = join(dir, 'one.tar')
          writeFileSync(blob, bytes)
          const digest = sha256(bytes)
          const {mountPoint, upper} = placesOf(storeDir, 'one', digest)
          // As the worker's unit has it.
          const umask = process.umask(0o077)
          try {
            const url = `file://${blob}`
            await store.images.fetch({name: 'one', url, digest, backend, profile: 'image'})
            await reached(store)
          } finally {
            process.umask(umask)
          }
          expect(mountKinds(storeDir, 'one')).to.deep.equal(kindsOf[backend])
          const {mode, uid, gid, mtimeMs} = statSync(mountPoint)
          expect([mode & 0o7777, uid, gid, mtimeMs]).to.deep.equal([0o3751, 12, 34, 1e12 + 500])
          expect(lgetxattr(mountPoint, 'user.of-the-root').toString()).to.equal('value')
          expect(lgetxattr(mountPoint, 'trusted.of-the-root').toString()).to.equal('secret')

          // What somebody changes there stays, also when it is mounted again.
          chmodSync(mountPoint, 0o700)
          for (const act of ['deactivate', 'activate'] as const) {
            await store.images[act]('one')
            await reached(store)
          }
          expect(statSync(mountPoint).mode & 0o7777).to.equal(0o700)
          expect(llistxattr(upper)).to.include('user.of-the-root')
          await removed(store)
        },
        {flags: {allowFile: true}},
      ))
})
