/**
 * kysely's SQLite dialect with three differences, each for a trap that was met:
 *
 * - Transactions begin immediate. A deferred one that reads and then writes fails at once with SQLITE_BUSY_SNAPSHOT
 *   when another process wrote in between, whatever the busy timeout.
 * - A busy database is waited for without blocking. better-sqlite3 is synchronous: its own busy timeout would stop
 *   the event loop, and so every download, and for ever where the lock is held by another connection of this very
 *   process that needs the loop to go on.
 * - Statements are prepared once, and what goes wrong with the file (full, locked, damaged) leaves as one of our errors.
 */
import type SqliteDatabase from 'better-sqlite3'
import {
  CompiledQuery,
  SqliteDialect,
  type DatabaseConnection,
  type Driver,
  type QueryResult,
} from 'kysely'
import {systemCode} from '../errors.ts'
import {codedDatabaseError} from './errors.ts'

export type ConnectionOptions = {
  database: SqliteDatabase.Database
  /** How long a busy database is waited for. */
  busyTimeoutMs: number
}

export class ImmediateDialect extends SqliteDialect {
  readonly #options: ConnectionOptions

  constructor(options: ConnectionOptions) {
    super({database: options.database})
    this.#options = options
  }

  override createDriver(): Driver {
    return new ImmediateDriver(this.#options)
  }
}

class ImmediateDriver implements Driver {
  readonly #database: SqliteDatabase.Database
  readonly #connection: WaitingConnection

  constructor(options: ConnectionOptions) {
    this.#database = options.database
    this.#connection = new WaitingConnection(options)
  }

  async init(): Promise<void> {
    // The database is open already.
  }

  acquireConnection(): Promise<DatabaseConnection> {
    return Promise.resolve(this.#connection)
  }

  async beginTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('begin immediate'))
  }

  async commitTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('commit'))
  }

  async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    // On a full disk SQLite rolls back by itself; a second time would hide the error that tells why.
    if (this.#database.inTransaction) await connection.executeQuery(CompiledQuery.raw('rollback'))
  }

  async releaseConnection(): Promise<void> {
    // There is one connection for the life of the database.
  }

  destroy(): Promise<void> {
    this.#database.close()
    return Promise.resolve()
  }
}

/** First wait for a busy database; it doubles up to the longest. */
const waitMsMin = 2
const waitMsMax = 50
/** Statements kept prepared; the program has fewer. */
const statementsMax = 256

class WaitingConnection implements DatabaseConnection {
  readonly #database: SqliteDatabase.Database
  readonly #busyTimeoutMs: number
  readonly #statements = new Map<string, SqliteDatabase.Statement>()

  constructor(options: ConnectionOptions) {
    this.#database = options.database
    this.#busyTimeoutMs = options.busyTimeoutMs
  }

  async executeQuery<R>(query: CompiledQuery): Promise<QueryResult<R>> {
    // By the steady clock: somebody may set the other one meanwhile.
    const deadline = performance.now() + this.#busyTimeoutMs
    for (let waitMs = waitMsMin; ; waitMs = Math.min(waitMs * 2, waitMsMax)) {
      try {
        return this.#execute<R>(query)
      } catch (error) {
        const isBusy = /^SQLITE_(BUSY|LOCKED)/.test(systemCode(error) ?? '')
        // Inside a transaction the lock is held: waiting would not help, and the transaction must end.
        if (!isBusy || this.#database.inTransaction || performance.now() >= deadline) {
          throw codedDatabaseError(error, this.#database.name) ?? error
        }
        await new Promise((resolve) => setTimeout(resolve, waitMs))
      }
    }
  }

  #execute<R>({sql, parameters}: CompiledQuery): QueryResult<R> {
    const statement = this.#prepare(sql)
    if (statement.reader) return {rows: statement.all(...parameters) as R[]}
    const {changes, lastInsertRowid} = statement.run(...parameters)
    return {rows: [], insertId: BigInt(lastInsertRowid), numAffectedRows: BigInt(changes)}
  }

  #prepare(sql: string): SqliteDatabase.Statement {
    const known = this.#statements.get(sql)
    if (known) return known
    const statement = this.#database.prepare(sql)
    if (this.#statements.size >= statementsMax) this.#statements.clear()
    this.#statements.set(sql, statement)
    return statement
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- nothing here streams
  async *streamQuery<R>(): AsyncIterableIterator<QueryResult<R>> {
    throw new Error('imgstore does not stream rows')
  }
}
