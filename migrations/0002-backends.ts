/**
 * How an image is made usable: extracted into a directory, or indexed as EROFS. `backend` is what was asked for,
 * `tree_backend` what was made.
 */
import {sql, type Kysely} from 'kysely'

const statements = [
  `alter table placements add column backend text not null default 'auto'
    check (backend in ('auto', 'dir', 'erofs'))`,
  `alter table placements add column tree_backend text check (tree_backend in ('dir', 'erofs'))`,
  `update placements set tree_backend = 'dir' where tree_id is not null`,
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}
