// Mocha's usual output, and what came of each test as one JSON line appended to the file that IMGSTORE_TEST_COUNTS
// names: how many passed, and the titles of those that failed or were skipped.
import {appendFileSync} from 'node:fs'
import mocha from 'mocha'

export default class CountingReporter extends mocha.reporters.Spec {
  constructor(runner, options) {
    super(runner, options)
    const file = process.env.IMGSTORE_TEST_COUNTS
    const failed = []
    const skipped = []
    runner.on('fail', (test) => failed.push(test.fullTitle()))
    runner.on('pending', (test) => skipped.push(test.fullTitle()))
    runner.once('end', () => {
      const counts = {passed: this.stats.passes, failed, skipped}
      if (file) appendFileSync(file, `${JSON.stringify(counts)}\n`)
    })
  }
}
