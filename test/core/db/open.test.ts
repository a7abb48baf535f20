import {spawn} from 'node:child_process'
import {once} from 'node:events'
import {chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join, resolve} from 'node:path'
import SqliteDatabase from 'better-sqlite3'
import {expect} from 'chai'
import {sql} from 'kysely'
import {migrationNames} from '../../../src/core/db/migrate.ts'
import {openDatabase} from '../../../src/core/db/open.ts'
import {addNode} from '../../../src/core/db/owners.ts'
import {ImgstoreError} from '../../../src/core/errors.ts'
import type {NodeId} from '../../../src/core/ids.ts'
import {node, withTempDatabase} from '../../support/db-rows.ts'
import {withTempDir} from '../../support/temp-dir.ts'

async function inProcess(...args: string[]): Promise<string[]> {
  const file = resolve('test/support/db-process.ts')
  const child = spawn(process.execPath, ['--no-warnings', file, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    // Sixteen of them compile the same sources.
    env: {...process.env, NODE_COMPILE_CACHE: resolve('.cache/compile')},
  })
  let said = ''
  let complaint = ''
  child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (complaint += chunk.toString()))
  const [code] = (await once(child, 'close')) as [number | null]
  if (code !== 0) throw new Error(`the process ended with ${String(code)}: ${complaint}`)
  return JSON.parse(said) as string[]
}

async function refused(path: string): Promise<ImgstoreError> {
  try {
    const database = await openDatabase(path)
    await database.close()
  } catch (error) {
    if (error instanceof ImgstoreError) return error
    throw error
  }
  throw new Error('the database was opened')
}

async function made(path: string): Promise<void> {
  await (await openDatabase(path)).close()
}

function change(path: string, statement: string): void {
  const file = new SqliteDatabase(path)
  file.exec(statement)
  file.close()
}

describe('opening a database', () => {
  it('makes and migrates it once, however many processes do so at the same time', async () => {
    await withTempDir(async (dir) => {
      const path = join(dir, 'deep', 'store.db')
      const eight = Array.from({length: 8}, () => inProcess('open', path))
      const expected = [...migrationNames, String(migrationNames.length)]
      for (const said of await Promise.all(eight)) expect(said).to.deep.equal(expected)
      const database = await openDatabase(path)
      expect(database.quickCheck()).to.equal('ok')
      await database.close()
    })
  }).timeout(20_000)

  it('waits its turn where others make, open and close the same new file', async () => {
    await withTempDir(async (dir) => {
      const three = Array.from({length: 3}, () =>
        inProcess('open-many', dir, String(Date.now() + 1000)),
      )
      for (const said of await Promise.all(three)) expect(said).to.deep.equal([])
    })
  }).timeout(30_000)

  it('sets what durability needs: WAL, full sync, foreign keys', async () => {
    await withTempDatabase(async ({database}) => {
      const pragma = async (name: string): Promise<unknown> => {
        const {rows} = await sql.raw<Record<string, unknown>>(`pragma ${name}`).execute(database.db)
        return Object.values(rows[0] ?? {})[0]
      }
      expect(await pragma('journal_mode')).to.equal('wal')
      expect(await pragma('synchronous')).to.equal(2)
      expect(await pragma('foreign_keys')).to.equal(1)
      expect(await pragma('user_version')).to.equal(migrationNames.length)
    })
  })

  it('leaves no file beside the database after the last one closed it', async () => {
    await withTempDir(async (dir) => {
      const path = join(dir, 'store.db')
      await made(path)
      expect(existsSync(path)).to.equal(true)
      expect(existsSync(`${path}-wal`)).to.equal(false)
    })
  })

  it('refuses one of a newer program, by its version, and does not touch it', async () => {
    await withTempDir(async (dir) => {
      const path = join(dir, 'store.db')
      await made(path)
      change(path, `pragma user_version = ${migrationNames.length + 1}`)
      const before = readFileSync(path)
      const error = await refused(path)
      expect(error.code).to.equal('store_newer')
      expect(error.exit).to.equal(15)
      expect(error.message)
        .to.include(path)
        .and.include(String(migrationNames.length + 1))
      expect(readFileSync(path).equals(before)).to.equal(true)
    })
  })

  it('refuses one with a migration that it does not know', async () => {
    await withTempDir(async (dir) => {
      const path = join(dir, 'store.db')
      await made(path)
      change(path, `insert into migrations values ('9999-later', 1); pragma user_version = 0`)
      const error = await refused(path)
      expect(error.code).to.equal('store_newer')
      expect(error.message).to.include('9999-later')
    })
  })

  it('says what is wrong with a file that is no database, or a damaged one', async () => {
    await withTempDir(async (dir) => {
      const text = join(dir, 'text.db')
      writeFileSync(
        text,
        'this is not a database, only some text that is long enough to be read\n'.repeat(20),
      )
      expect((await refused(text)).code).to.equal('store_invalid')
      const damaged = join(dir, 'damaged.db')
      await made(damaged)
      const bytes = readFileSync(damaged)
      bytes.fill(0x5a, 100, 4096)
      writeFileSync(damaged, bytes)
      change(text.replace('text', 'other'), 'create table t (x)')
      const error = await openDatabase(damaged).then(
        async (database) => {
          try {
            await addNode(database.db, 'n' as NodeId, 'h', 1)
            throw new Error('a damaged page was read')
          } catch (met) {
            return met
          } finally {
            await database.close()
          }
        },
        (met: unknown) => met,
      )
      expect(error).to.have.property('code', 'store_invalid')
    })
  })

  it('says so when a directory or a file is in the way', async () => {
    await withTempDir(async (dir) => {
      mkdirSync(join(dir, 'store.db'))
      expect((await refused(join(dir, 'store.db'))).code).to.equal('permission_denied')
      writeFileSync(join(dir, 'file'), '')
      expect((await refused(join(dir, 'file', 'store.db'))).code).to.be.oneOf([
        'io_failed',
        'permission_denied',
      ])
    })
  })

  it('makes a read-only file a matter of permission', async function () {
    // Root may write to any file.
    if (process.getuid?.() === 0) process.seteuid?.(65_534)
    try {
      await withTempDir(async (dir) => {
        const path = join(dir, 'store.db')
        await made(path)
        chmodSync(path, 0o444)
        const error = await openDatabase(path).then(
          async (database) => {
            try {
              await addNode(database.db, 'n' as NodeId, 'h', 1)
            } catch (met) {
              return met
            } finally {
              await database.close()
            }
            return undefined
          },
          (met: unknown) => met,
        )
        expect(error).to.have.property('code', 'permission_denied')
      })
    } finally {
      if (process.getuid?.() === 0) process.seteuid?.(0)
    }
  })

  it('gives an empty private one for :memory:', async () => {
    const database = await openDatabase(':memory:')
    try {
      const row = await database.db
        .selectFrom('images')
        .select((eb) => eb.fn.countAll<number>().as('n'))
        .executeTakeFirstOrThrow()
      expect(row.n).to.equal(0)
    } finally {
      await database.close()
    }
  })
})

describe('transactions', () => {
  it('of four processes that read and then write lose nothing', async () => {
    await withTempDatabase(async ({database, path, add}) => {
      await add('one')
      await Promise.all(Array.from({length: 4}, () => inProcess('count', path, node, '50')))
      const row = await database.db.selectFrom('placements').select('entries').executeTakeFirst()
      expect(row?.entries).to.equal(200)
    })
  }).timeout(20_000)

  it('of four processes that claim give every run to one of them', async () => {
    await withTempDatabase(async ({path, add, clock}) => {
      const runs: string[] = []
      for (let i = 0; i < 40; i++)
        runs.push((await add(`image-${i}`, {dueAt: clock.now() + i})).run)
      const claimed = await Promise.all(
        Array.from({length: 4}, () => inProcess('claim', path, node)),
      )
      expect(claimed.flat().sort()).to.deep.equal(runs.sort())
    })
  }).timeout(20_000)

  it('are rolled back whole when their body throws, and leave the database usable', async () => {
    await withTempDatabase(async ({database, add}) => {
      const thrown = await database.db
        .transaction()
        .execute(async (trx) => {
          await addNode(trx, 'other' as NodeId, 'h', 1)
          throw new Error('on purpose')
        })
        .catch((error: unknown) => error)
      expect(thrown).to.have.property('message', 'on purpose')
      expect(await database.db.selectFrom('nodes').select('id').execute()).to.have.lengthOf(1)
      await add('one')
    })
  })

  it('keep their error when the disk is full', async () => {
    await withTempDatabase(async ({database, add}) => {
      await sql`pragma max_page_count = 1`.execute(database.db)
      const thrown = await add('x'.repeat(60))
        .then(async () => {
          for (let i = 0; i < 500; i++) await add(`filling-${i}`)
        })
        .catch((error: unknown) => error)
      expect(thrown).to.have.property('code', 'no_space')
    })
  })

  it('that wait for another connection do not stop the event loop', async () => {
    await withTempDatabase(async ({database, path}) => {
      const other = new SqliteDatabase(path)
      other.exec('begin immediate')
      let ticks = 0
      const timer = setInterval(() => ticks++, 1)
      const waiting = addNode(database.db, 'other' as NodeId, 'h', 1)
      while (ticks < 5) await new Promise((resolve) => setTimeout(resolve, 1))
      clearInterval(timer)
      other.exec('commit')
      other.close()
      await waiting
      expect(await database.db.selectFrom('nodes').select('id').execute()).to.have.lengthOf(2)
    })
  })
})

describe('the schema', () => {
  const statements: [string, string][] = [
    ['an unknown state', `update placements set state = 'GONE'`],
    ['an unknown goal', `update placements set goal = 'FAILED'`],
    ['FAILED without a reason', `update placements set state = 'FAILED'`],
    ['a reason without FAILED', `update placements set failed = '{}'`],
    ['an unknown run status', `update runs set status = 'paused'`],
    ['running without an owner', `update runs set status = 'running'`],
    ['an owner without running', `update runs set owner = 'x'`],
    ['an end without a time', `update runs set status = 'done'`],
    ['a time without an end', `update runs set finished_at = 1`],
    [
      'a second open run',
      `insert into runs (id, image_id, image_name, node, digest, goal, status, due_at, created_at)
      select id || 'x', image_id, image_name, node, digest, goal, 'pending', 1, 1 from runs`,
    ],
    [
      'an unknown event',
      `insert into run_events (run_id, image_name, node, at, kind, attempt, epoch) values ('r', 'i', 'n', 1, 'odd', 1, 1)`,
    ],
    ['a short digest', `update images set digest = 'abc'`],
    [
      'a second image of the same name',
      `insert into images (name, url, digest, created_at, updated_at) select name, url, digest, 1, 1 from images`,
    ],
    ['a placement on an unknown node', `update placements set node = 'nowhere'`],
    ['text in a number', `update images set created_at = 'today'`],
    ['a blob of negative size', `insert into blobs values ('${'a'.repeat(64)}', -1, 1, 1)`],
  ]

  for (const [what, statement] of statements) {
    it(`refuses ${what}`, async () => {
      await withTempDatabase(async ({database, add}) => {
        await add('one')
        const thrown = await sql
          .raw(statement)
          .execute(database.db)
          .catch((error: unknown) => error)
        expect(thrown)
          .to.be.instanceOf(Error)
          .with.property('code')
          .that.matches(/^SQLITE_CONSTRAINT/)
      })
    })
  }
})
