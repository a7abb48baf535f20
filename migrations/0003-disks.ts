/** What an image is: the root filesystem in an archive, or a disk. The same on every host that has it. */
import {sql, type Kysely} from 'kysely'

const statements = [
  `alter table images add column kind text not null default 'rootfs' check (kind in ('rootfs', 'disk'))`,
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}
