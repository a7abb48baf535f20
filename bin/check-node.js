// Imported before everything else: an older Node dies of a segmentation fault when the database opens,
// without a word. This file and those that import it must parse on Node 12.
const minimum = 24
if (Number(process.versions.node.split('.')[0]) < minimum) {
  console.error(
    'imgstore needs Node ' +
      minimum +
      ' or newer; this is Node ' +
      process.versions.node +
      '.\n' +
      'Start it as bin/imgstore, which takes the Node that the package carries. If that one is missing,\n' +
      'run `npm rebuild node` in the package (or `node scripts/bootstrap.mjs` in a clone), or install Node ' +
      minimum +
      '.',
  )
  process.exit(15)
}
