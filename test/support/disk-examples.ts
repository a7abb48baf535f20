/** What the examples of `imgstore disk` talk about: ./debian.img, its chunks in ./images and in a bucket. */
import {join} from 'node:path'
import {makeDisk, randomBytesOf} from './disk-images.ts'
import {FakeBucket} from './fake-bucket.ts'
import type {Scene} from './program.ts'

/** Makes them in a scene, runs `body` with a way to put what is there into an example, and ends the bucket. */
export async function withDisks(
  scene: Scene,
  body: (rewrite: (example: string) => string) => Promise<void>,
): Promise<void> {
  const bucket = await FakeBucket.start()
  try {
    bucket.buckets.add('bucket')
    bucket.buckets.add('public')
    scene.env['IMGSTORE_S3_ENDPOINT'] = bucket.endpoint
    scene.env['AWS_ACCESS_KEY_ID'] = bucket.accessKeyId
    scene.env['AWS_SECRET_ACCESS_KEY'] = bucket.secretAccessKey
    makeDisk(join(scene.dir, 'debian.img'), 20_480, [{at: 4096, bytes: randomBytesOf(5000)}])
    const publish = ['disk', 'publish', './debian.img', '--id', 'debian', '--version', 'r3']
    await scene.ok(publish)
    await scene.ok([...publish, '--to', 's3://public'])
    await body((example) =>
      example
        .replace(/http:\/\/\S+\/manifest/, `${bucket.endpoint}/public/debian/r3/manifest.json`)
        .replace('/srv/images', './images'),
    )
  } finally {
    await bucket.stop()
  }
}
