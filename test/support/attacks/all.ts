/** The whole battery, by the classes of docs/unpack.md. */
import type {Attack} from './attack.ts'
import {endsAttacks} from './ends.ts'
import {headersAttacks} from './headers.ts'
import {linksAttacks} from './links.ts'
import {pathsAttacks} from './paths.ts'
import {resourceAttacks} from './resources.ts'
import {rightArchives} from './right.ts'
import {sparseAttacks} from './sparse.ts'
import {typesAttacks} from './types.ts'
import {whiteoutAttacks} from './whiteouts.ts'

export const attackClasses: Readonly<Record<string, readonly Attack[]>> = {
  paths: pathsAttacks,
  links: linksAttacks,
  'types and attributes': typesAttacks,
  headers: headersAttacks,
  'sparse files': sparseAttacks,
  ends: endsAttacks,
  resources: resourceAttacks,
  whiteouts: whiteoutAttacks,
  'odd but right': rightArchives,
}
