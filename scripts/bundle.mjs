// Last step of `npm run build`: makes dist/bundle/main.cjs, the program as it is started: the same code in one file,
// because loading oclif, kysely and our own modules one by one costs several times what a command then does
// (bench/start-up.ts compares). CommonJS, because there a module is evaluated when it is first asked for.
// dist/src stays beside it for what is started as a process of its own.
import {cpSync, globSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {readFile} from 'node:fs/promises'
import {dirname, relative, resolve} from 'node:path'
import {build, transform} from 'esbuild'
import {bundleUnpacker} from './bundle-unpacker.ts'

const root = resolve(import.meta.dirname, '..')
const dist = resolve(root, 'dist')
const commandsDir = resolve(dist, 'src/commands')
const {dependencies, name, oclif, version} = JSON.parse(
  readFileSync(resolve(root, 'package.json'), 'utf8'),
)
const bundled = ['@oclif/core', 'better-sqlite3', 'kysely']

/** What oclif does at each start that we have no use for: file, text, what stands there instead. */
const needless = [
  // bin/check-node.js has done that, without a library.
  ['lib/index.js', 'checkNodeVersion();', ''],
  // A file of colours for help.
  ['lib/config/config.js', 'this.theme = await this.loadTheme();', ''],
  // Loads everything again, for commands of plugins that bring another oclif.
  ['lib/config/config.js', 'if (isConfig(opts)) {', 'if (isConfig(opts)) { return opts;'],
]

/** oclif's compiled CommonJS requires everything at its start; this defers each require to the first use of its name. */
const lazyRequire = {
  name: 'lazy-require',
  setup({onLoad}) {
    onLoad({filter: /\/@oclif\/core\/lib\/.*\.js$/}, async ({path}) => {
      let text = await readFile(path, 'utf8')
      for (const [file, before, after] of needless) {
        if (!path.endsWith(file)) continue
        if (!text.includes(`${before}\n`))
          throw new Error(`oclif has changed: no ${before} in ${file}`)
        text = text.replace(`${before}\n`, `${after}\n`)
      }
      text = text.replace(
        /^exports\.(\w+) = (__importStar\(require\("[^"]+"\)\));$/gm,
        (_, name, value) =>
          `let ${name}$value; Object.defineProperty(exports, '${name}', {enumerable: true, get: () => ${name}$value ??= ${value}});`,
      )
      const assignment =
        /^(?:const|var) (\w+) = ((?:__importDefault|__importStar)?\(?require\("[^"]+"\)\)?);$/gm
      return {contents: defer(text, assignment), loader: 'js'}
    })
  },
}

/** The same for what our own modules import from packages and from Node, as esbuild writes it down. */
function deferImports(text) {
  const assignment =
    /^ +(import_\w+) = (__toESM\(require\("[^"]+"\)(?:, 1)?\)|require\("[^"]+"\));$/gm
  const names = [...text.matchAll(assignment)].map(([, name]) => name)
  const declared = new RegExp(`\\b(${names.join('|')})(, |(?=;))`, 'g')
  const undeclared = text
    .replaceAll(/^var import_.*;$/gm, (line) => line.replaceAll(declared, '').replace(/, ;$/, ';'))
    .replaceAll(/^var ;$/gm, '')
  // A package may be CommonJS, whose exports as a whole are its default, or a module that has a default of its own.
  const interop = `
function $import(value) {
  return require('node:util').types.isModuleNamespaceObject(value) ? value : __toESM(value, 1)
}
`
  return (
    defer(undeclared, assignment).replaceAll(
      /\b__toESM\((require\("[^"]+"\)), 1\)/g,
      '$$import($1)',
    ) + interop
  )
}

/** Turns each match of `assignment` (a name and its value) into a value that is made when its name is first used. */
function defer(text, assignment) {
  const values = new Map([...text.matchAll(assignment)].map(([, name, value]) => [name, value]))
  if (values.size === 0) return text
  const uses = new RegExp(`\\b(${[...values.keys()].join('|')})\\b`, 'g')
  const makers = [...values].map(
    ([name, value]) =>
      `var ${name}$value; function ${name}$get() { return ${name}$value ??= ${value} }\n`,
  )
  return text.replaceAll(assignment, '').replaceAll(uses, '($1$get())') + makers.join('')
}

/** A module that finds files beside itself must find them where it stood before it was bundled. */
const keepPlaces = {
  name: 'keep-places',
  setup({onLoad}) {
    onLoad({filter: /\/dist\/(src|migrations)\/.*\.js$/}, async ({path}) => {
      const text = await readFile(path, 'utf8')
      if (!text.includes('import.meta')) return undefined
      const file = `$place('${relative(dist, path)}')`
      const contents = text
        .replaceAll(/\bimport\.meta\.url\b/g, `$url.pathToFileURL(${file}).href`)
        .replaceAll(/\bimport\.meta\.filename\b/g, file)
        .replaceAll(/\bimport\.meta\.dirname\b/g, `$place('${relative(dist, dirname(path))}')`)
      return {contents, loader: 'js'}
    })
  },
}

/** better-sqlite3 looks for its binary beside itself, wherever npm put the package. */
const findBinary = {
  name: 'find-binary',
  setup({onLoad}) {
    onLoad({filter: /\/better-sqlite3\/lib\/binding\.js$/}, async ({path}) => {
      const text = await readFile(path, 'utf8')
      const place = "require('path').dirname($resolve('better-sqlite3'))"
      return {contents: text.replaceAll('__dirname', place), loader: 'js'}
    })
  },
}

/** oclif writes its log by the package debug, which is slow to load: only for who sets DEBUG. */
const lazyDebug = {
  name: 'lazy-debug',
  setup({onLoad}) {
    onLoad({filter: /\/debug\/src\/index\.js$/}, () => ({
      contents: `module.exports = process.env.DEBUG ? require('./node.js') : () => () => {}`,
    }))
  },
}

// What oclif needs to know of package.json and of the commands, made here instead of at each start. A command's
// module is evaluated when it is asked for.
const pjson = {name, version, oclif}
const topics = Object.entries(oclif.topics ?? {}).map(([topic, value]) => ({...value, name: topic}))
const hooks = Object.fromEntries(
  Object.entries(oclif.hooks ?? {}).map(([event, target]) => [
    event,
    [{target, identifier: 'default'}],
  ]),
)
const modules = globSync('**/*.js', {cwd: commandsDir}).map((file) => {
  const id = file.replace(/\.js$/, '').replaceAll('/', ':')
  return `'${id}': () => require('${resolve(commandsDir, file)}').default`
})
const main = `
const modules = {${modules.join(', ')}}
const root = require('node:path').resolve(__dirname, '../..')
const pjson = ${JSON.stringify(pjson)}

exports.main = () => {
  const {commands} = JSON.parse(require('node:fs').readFileSync(root + '/oclif.manifest.json', 'utf8'))
  const plugin = {
    name: pjson.name, alias: pjson.name, version: pjson.version, root, pjson, options: {root}, children: [],
    type: 'core', moduleType: 'module', isRoot: true, valid: true, hasManifest: true, hooks: ${JSON.stringify(hooks)},
    topics: ${JSON.stringify(topics)}, commandIDs: Object.keys(commands), load() {},
    findCommand: async (id) => Object.assign(modules[id](), {id, plugin}),
  }
  plugin.commands = Object.values(commands).map((command) => ({
    ...command, pluginType: 'core', pluginAlias: pjson.name, load: () => plugin.findCommand(command.id),
  }))
  return require('@oclif/core/execute').execute({loadOptions: {root, pjson, plugins: [plugin]}})
}
`

const {outputFiles} = await build({
  stdin: {contents: main, resolveDir: root, sourcefile: 'main.cjs'},
  outfile: resolve(dist, 'bundle/main.cjs'),
  bundle: true,
  // For keep-places and find-binary.
  banner: {
    js: [
      "const $url = require('node:url')",
      "const $place = (path) => require('node:path').join(__dirname, '..', path)",
      'const $resolve = (name) => require.resolve(name)',
    ].join('\n'),
  },
  format: 'cjs',
  platform: 'node',
  target: 'node24',
  // Other packages are loaded where they are, by the few commands that use them. The compilers are for oclif's
  // development mode.
  external: [
    ...Object.keys(dependencies).filter((dependency) => !bundled.includes(dependency)),
    ...['typescript', 'ts-node', 'tsx'],
  ],
  // Looks for Windows under us, to name the platform in --version.
  alias: {'wsl-utils': resolve(import.meta.dirname, 'no-wsl.mjs')},
  plugins: [lazyRequire, keepPlaces, findBinary, lazyDebug],
  legalComments: 'linked',
  logLevel: 'warning',
  write: false,
})
await bundleUnpacker(dist)
// What browsers run is served as it was written.
const page = 'src/daemon/http/page/ui'
cpSync(resolve(root, page), resolve(dist, page), {
  recursive: true,
  filter: (file) => !file.endsWith('.json'),
})
mkdirSync(resolve(dist, 'bundle'), {recursive: true})
for (const {path, text} of outputFiles) {
  if (path.endsWith('.cjs')) {
    // Names stay, for the traces of bugs.
    const options = {
      minifyWhitespace: true,
      minifySyntax: true,
      lineLimit: 200,
      legalComments: 'none',
    }
    writeFileSync(path, (await transform(deferImports(text), options)).code)
  } else {
    writeFileSync(path, text)
  }
}
