import type {Kysely, Transaction} from 'kysely'
import type {ErrorJson} from '../errors.ts'
import type {DB} from './schema.ts'

/** What statements run on: inside a transaction only the transaction (kysely gives SQLite one connection). */
export type Query = Kysely<DB> | Transaction<DB>

export function toJson(value: object | undefined): string | null {
  return value === undefined ? null : JSON.stringify(value)
}

export function errorFrom(text: string | null): ErrorJson | undefined {
  return text === null ? undefined : (JSON.parse(text) as ErrorJson)
}

/** The fields of `value` that are not null, for types whose absent fields are undefined. */
export function present<T extends object>(value: T): {[K in keyof T]?: NonNullable<T[K]>} {
  const result: Record<string, unknown> = {}
  for (const [key, field] of Object.entries(value)) {
    if (field !== null && field !== undefined) result[key] = field
  }
  return result as {[K in keyof T]?: NonNullable<T[K]>}
}
