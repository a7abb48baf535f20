/**
 * kysely begins SQLite transactions deferred. A transaction that reads and then writes would then fail at once with
 * SQLITE_BUSY_SNAPSHOT when another process wrote in between, whatever the busy timeout. These begin immediate.
 *
 * And what goes wrong with the file (full, locked, damaged) leaves here as one of our errors, not as SQLite's.
 */
import type SqliteDatabase from 'better-sqlite3'
import {
  CompiledQuery,
  SqliteDialect,
  SqliteDriver,
  type DatabaseConnection,
  type Driver,
  type QueryResult,
} from 'kysely'
import {codedDatabaseError} from './errors.ts'

class ImmediateDriver extends SqliteDriver {
  readonly #file: SqliteDatabase.Database

  constructor(file: SqliteDatabase.Database) {
    super({database: file})
    this.#file = file
  }

  override async acquireConnection(): Promise<DatabaseConnection> {
    const connection = await super.acquireConnection()
    return new CodedConnection(connection, this.#file.name)
  }

  override async beginTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('begin immediate'))
  }

  override async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    // On a full disk SQLite rolls back by itself; a second time would hide the error that tells why.
    if (this.#file.inTransaction) await super.rollbackTransaction(connection)
  }
}

class CodedConnection implements DatabaseConnection {
  readonly #connection: DatabaseConnection
  readonly #path: string

  constructor(connection: DatabaseConnection, path: string) {
    this.#connection = connection
    this.#path = path
  }

  async executeQuery<R>(query: CompiledQuery): Promise<QueryResult<R>> {
    try {
      return await this.#connection.executeQuery<R>(query)
    } catch (error) {
      throw codedDatabaseError(error, this.#path) ?? error
    }
  }

  streamQuery<R>(query: CompiledQuery, chunkSize: number): AsyncIterableIterator<QueryResult<R>> {
    return this.#connection.streamQuery<R>(query, chunkSize)
  }
}

export class ImmediateDialect extends SqliteDialect {
  readonly #file: SqliteDatabase.Database

  constructor(file: SqliteDatabase.Database) {
    super({database: file})
    this.#file = file
  }

  override createDriver(): Driver {
    return new ImmediateDriver(this.#file)
  }
}
