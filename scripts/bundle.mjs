// Last step of `npm run build`: makes dist/bundle/main.cjs, the program as it is started: the same code in one file,
// because loading oclif, kysely and our own modules one by one costs several times what a command then does
// (bench/start-up.ts compares). CommonJS, because there a module is evaluated when it is first asked for.
// dist/src stays beside it for what is started as a process of its own.
import {globSync, readFileSync} from 'node:fs'
import {readFile} from 'node:fs/promises'
import {dirname, relative, resolve} from 'node:path'
import {build} from 'esbuild'

const root = resolve(import.meta.dirname, '..')
const dist = resolve(root, 'dist')
const commandsDir = resolve(dist, 'src/commands')
const {dependencies, name, oclif, version} = JSON.parse(
  readFileSync(resolve(root, 'package.json'), 'utf8'),
)
const bundled = ['@oclif/core', 'kysely']

/** Compiled CommonJS requires everything at its start; this defers each require to the first use of its name. */
const lazyRequire = {
  name: 'lazy-require',
  setup({onLoad}) {
    onLoad({filter: /\/@oclif\/core\/lib\/.*\.js$/}, async ({path}) => {
      const names = []
      const deferred = (await readFile(path, 'utf8'))
        .replace(
          /^(?:const|var) (\w+) = ((?:__importDefault|__importStar)?\(?require\("[^"]+"\)\)?);$/gm,
          (_, name, value) => {
            names.push(name)
            return `let ${name}$value; const ${name}$get = () => ${name}$value ??= ${value};`
          },
        )
        .replace(
          /^exports\.(\w+) = (__importStar\(require\("[^"]+"\)\));$/gm,
          (_, name, value) =>
            `let ${name}$value; Object.defineProperty(exports, '${name}', {enumerable: true, get: () => ${name}$value ??= ${value}});`,
        )
      const contents = names.reduce(
        (text, name) => text.replaceAll(new RegExp(`\\b${name}\\b(?!\\$)`, 'g'), `(${name}$get())`),
        deferred,
      )
      return {contents, loader: 'js'}
    })
  },
}

/** A module that finds files beside itself must find them where it stood before it was bundled. */
const keepPlaces = {
  name: 'keep-places',
  setup({onLoad}) {
    onLoad({filter: /\/dist\/(src|migrations)\/.*\.js$/}, async ({path}) => {
      const text = await readFile(path, 'utf8')
      if (!text.includes('import.meta')) return undefined
      const file = `(__dirname + '/../${relative(dist, path)}')`
      const dir = `(__dirname + '/../${relative(dist, dirname(path))}')`
      const contents = text
        .replaceAll(/\bimport\.meta\.url\b/g, `require('node:url').pathToFileURL${file}.href`)
        .replaceAll(/\bimport\.meta\.filename\b/g, `require('node:path').resolve${file}`)
        .replaceAll(/\bimport\.meta\.dirname\b/g, `require('node:path').resolve${dir}`)
      return {contents, loader: 'js'}
    })
  },
}

// oclif asks for one command by its id; the others are not even evaluated.
const commands = globSync('**/*.js', {cwd: commandsDir}).map((file) => {
  const id = file.replace(/\.js$/, '').replaceAll('/', ':')
  return `get '${id}'() { return require('${resolve(commandsDir, file)}').default }`
})
// What oclif needs of package.json, so that it need not look for it at each start.
const pjson = {
  name,
  version,
  oclif: {
    ...oclif,
    commands: {strategy: 'explicit', target: './dist/bundle/main.cjs', identifier: 'commands'},
  },
}
const main = `
exports.commands = {${commands.join(', ')}}
exports.main = () => {
  const loadOptions = {root: require('node:path').resolve(__dirname, '../..'), pjson: ${JSON.stringify(pjson)}}
  return require('@oclif/core/execute').execute({loadOptions})
}
`

await build({
  stdin: {contents: main, resolveDir: root, sourcefile: 'main.cjs'},
  outfile: resolve(dist, 'bundle/main.cjs'),
  bundle: true,
  format: 'cjs',
  platform: 'node',
  target: 'node24',
  // Other packages are loaded where they are, by the few commands that use them. The compilers are for oclif's
  // development mode.
  external: [
    ...Object.keys(dependencies).filter((dependency) => !bundled.includes(dependency)),
    ...['typescript', 'ts-node', 'tsx'],
  ],
  plugins: [lazyRequire, keepPlaces],
  legalComments: 'linked',
  logLevel: 'warning',
})
