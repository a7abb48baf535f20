/** A store of its own and a loopback server with an image, for tests of commands. */
import {join} from 'node:path'
import {expect} from 'chai'
import {withImageServer, type ImageServer} from './image-server.ts'
import {runCommand, type Ran} from './run-command.ts'
import {withTempDir} from './temp-dir.ts'

// These tests look at trees that are not mounted. Commands read it in this process and in those they are run in.
process.env['IMGSTORE_BACKEND'] ??= process.env['IMGSTORE_TEST_BACKEND'] ?? 'dir'

export type Bench = {
  dir: string
  server: ImageServer
  /** Runs a command on the store of this test. */
  run: (...words: string[]) => Promise<Ran>
  json: (...words: string[]) => Promise<Record<string, unknown> & {exit: number}>
  /** Fetches the server's image and waits until it is STORED. */
  fetched: (name: string) => Promise<void>
  flags: string[]
}

/** Hands `body` a store directory that does not exist yet, and what runs commands on it. */
export async function withStore(body: (bench: Bench) => Promise<void>): Promise<void> {
  await withTempDir((dir) =>
    withImageServer(dir, {fileBytes: 300_000}, async (server) => {
      const flags = ['--store', join(dir, 'store')]
      const run = (...words: string[]): Promise<Ran> => {
        const at = words.indexOf('--')
        const split = at < 0 ? words.length : at
        return runCommand(...words.slice(0, split), ...flags, ...words.slice(split))
      }
      await body({
        dir,
        server,
        flags,
        run,
        json: async (...words) => {
          const {stdout, stderr, exit} = await run(...words, '--json')
          expect(stderr).to.equal('')
          return {...(JSON.parse(stdout) as Record<string, unknown>), exit}
        },
        fetched: async (name) => {
          const ran = await run('fetch', name, server.url, server.digest, '--no-activate', '-w')
          expect(ran.exit, ran.stderr).to.equal(0)
        },
      })
    }),
  )
}

export const lines = (text: string): string[] => text.trimEnd().split('\n')
/** JSON lines, read. */
export const objects = (text: string): Record<string, unknown>[] =>
  lines(text).map((line) => JSON.parse(line) as Record<string, unknown>)
