// Who may import whom (docs/architecture.md). Each comment says what to do when the rule fires.
const drivers = 'db|blobs|sources|unpack|mounts|syscalls|disks|backups'
const services = 'images|volumes|layers|streams|trust|maintenance'

const owner = (pkg, home) => ({
  name: `only-${home.replace(/\W+/g, '-')}-uses-${pkg.replace(/\W+/g, '-')}`,
  severity: 'error',
  from: {path: '^src/', pathNot: `^src/(${home})`},
  to: {path: `(^|node_modules/)${pkg}(/|$)`},
})
const rule = (name, comment, from, to) => ({name, comment, severity: 'error', from, to})

export default {
  forbidden: [
    rule('no-circular', 'break the circle with a word both can import', {}, {circular: true}),
    rule('no-unresolvable', 'add it to package.json or fix the path', {}, {couldNotResolve: true}),
    rule(
      'no-orphans',
      'nobody imports this: delete it',
      {orphan: true, path: '^src/', pathNot: '^src/(commands|daemon/snapshotter/gen)/'},
      {},
    ),
    rule(
      'not-to-dev-dep',
      'shipped code needs a real dependency',
      {path: '^(src|bin|migrations)/', pathNot: '^bin/dev\\.js$'},
      {dependencyTypes: ['npm-dev'], dependencyTypesNot: ['type-only']},
    ),
    rule(
      'words',
      'src/core/*.ts imports only other words',
      {path: '^src/core/[^/]+\\.ts$(?<!store\\.ts)'},
      {path: '^(src|migrations|bin|test)/', pathNot: '^src/core/[^/]+\\.ts$'},
    ),
    rule(
      'store-is-the-door',
      'enter core through store.ts',
      {path: '^src/(commands|cli|daemon)/'},
      {path: '^src/core/[^/]+/'},
    ),
    rule(
      'core-knows-no-surface',
      'return a value or an event instead',
      {path: '^(src/core|migrations)/'},
      {path: '^(src/(commands|cli|daemon)|bin)/'},
    ),
    rule(
      'store-is-the-top',
      'store.ts builds you, not the other way',
      {path: '^src/core/'},
      {path: '^src/core/store\\.ts$'},
    ),
    rule(
      'drivers-alone',
      'move shared code to a word, or let a service join the two',
      {path: `^src/core/(${drivers})/`},
      {path: '^src/core/[^/]+/', pathNot: '^src/core/($1|syscalls)/'},
    ),
    rule(
      'only-db-migrates',
      'migrations are db business',
      {path: '^(src|bin)/', pathNot: '^src/core/db/'},
      {path: '^migrations/'},
    ),
    rule(
      'migrations-stand-alone',
      'a released migration must not change because src changed',
      {path: '^migrations/'},
      {path: '^src/'},
    ),
    rule(
      'machine-alone',
      'journal and steps are handed to the machine',
      {path: '^src/core/machine/'},
      {path: '^src/core/[^/]+/', pathNot: '^src/core/machine/'},
    ),
    rule(
      'services-alone',
      'share a driver, or let store.ts pass a function',
      {path: `^src/core/(${services})/`},
      {path: `^src/core/(${services})/`, pathNot: '^src/core/$1/'},
    ),
    rule(
      'surfaces-alone',
      'cli and daemon share only core',
      {path: '^src/(cli|daemon)/'},
      {path: '^src/(commands|cli|daemon)/', pathNot: '^src/$1/'},
    ),
    rule(
      'doors-alone',
      'http and snapshotter share only core',
      {path: '^src/daemon/(http|snapshotter)/'},
      {path: '^src/daemon/', pathNot: '^src/daemon/$1/'},
    ),
    rule(
      'commands-alone',
      'what two commands share goes to src/cli',
      {path: '^src/commands/'},
      {path: '^src/commands/'},
    ),
    owner('(@oclif|listr2|cli-progress)', 'cli|commands'),
    owner('(better-sqlite3|kysely)', 'core/db'),
    owner('got', 'core/sources'),
    owner('@aws-sdk', 'core/sources'),
    owner('tar', 'core/unpack'),
    owner('koffi', 'core/syscalls'),
    owner('(fastify|@fastify)', 'daemon/http'),
    owner('@connectrpc', 'daemon/snapshotter'),
  ],
  options: {
    doNotFollow: {path: 'node_modules'},
    tsPreCompilationDeps: true,
    tsConfig: {fileName: 'tsconfig.json'},
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default', 'types'],
    },
  },
}
