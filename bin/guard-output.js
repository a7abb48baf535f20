// Words that cannot be written end the program with one line, not with a stack. A closed pipe is the commands' business.
const fs = require('fs')

process.stdout.on('error', (error) => {
  if (error.code === 'EPIPE') return
  const isFull = error.code === 'ENOSPC' || error.code === 'EDQUOT'
  const advice = isFull ? 'Free space where it goes to' : 'Look where it goes to'
  try {
    fs.writeSync(2, `Error: the output cannot be written (${error.code})\nTry: ${advice}.\n`)
  } catch {
    // Nobody is left to be told.
  }
  process.exit(isFull ? 14 : 1)
})
// Where nobody can be told of a failure, the exit code still tells.
process.stderr.on('error', () => undefined)
