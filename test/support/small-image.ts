/** Small archives with their digests, for tests that need images to fetch. */
import {createHash} from 'node:crypto'
import {archive, directory, file} from './tar-builder.ts'

export type SmallImage = {bytes: Buffer; digest: string}

/** An archive of plain files; the strict profile takes it. */
export function smallImage(files: Record<string, string | Buffer> = {}): SmallImage {
  const all = {'etc/hostname': 'small\n', ...files}
  const bytes = archive(
    directory('./'),
    directory('./etc/'),
    ...Object.entries(all).map(([name, body]) => file(`./${name}`, body)),
  )
  return {bytes, digest: createHash('sha256').update(bytes).digest('hex')}
}
