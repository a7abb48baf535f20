/** Loaded before every test file: any Node warning or unhandled rejection fails the run. */
process.on('warning', (warning) => {
  if (warning.name === 'ExperimentalWarning') return
  process.exitCode = 1
  console.error(warning)
})
process.on('unhandledRejection', (reason) => {
  throw reason instanceof Error ? reason : new Error(String(reason))
})
