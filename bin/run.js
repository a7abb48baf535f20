#!/usr/bin/env node
require('./check-node.js')
require('./guard-output.js')
const fs = require('fs')
const os = require('os')
const path = require('path')

const program = path.join(__dirname, '../dist/bundle/main.cjs')

if (fs.existsSync(program)) {
  const cache = compileCacheDir()
  if (cache) require('module').enableCompileCache(cache)
  const main = load()
  if (main) main()
} else {
  console.error('imgstore is not built yet. Run `npm run build` in its directory.')
  process.exitCode = 15
}

/** The program, or undefined when its own disk does not give it. */
function load() {
  try {
    return require(program).main
  } catch (error) {
    console.error(
      `Error: the program itself cannot be loaded: ${error.message}\nTry: Look at the disk that holds it; install it again.`,
    )
    process.exitCode = 1
  }
}

/**
 * Where V8 keeps compiled code between starts, or undefined when there is no place for it that only this user
 * can write: whoever writes there decides what we run. For root that is no matter of HOME, which sudo may keep.
 */
function compileCacheDir() {
  const uid = process.geteuid()
  const base =
    uid === 0 ? '/var/cache' : process.env.XDG_CACHE_HOME || path.join(os.homedir(), '.cache')
  const dir = path.join(base, 'imgstore')
  try {
    if (!fs.existsSync(dir)) fs.mkdirSync(dir, {recursive: true, mode: 0o700})
    const stat = fs.lstatSync(dir)
    if (stat.isDirectory() && stat.uid === uid && !(stat.mode & 0o022))
      return path.join(dir, 'compiled')
  } catch {
    // A read-only or foreign home: start without the cache.
  }
  return undefined
}
