// Mocha's usual output, and its counts as one JSON line appended to the file that IMGSTORE_TEST_COUNTS names.
import {appendFileSync} from 'node:fs'
import mocha from 'mocha'

export default class CountingReporter extends mocha.reporters.Spec {
  constructor(runner, options) {
    super(runner, options)
    const file = process.env.IMGSTORE_TEST_COUNTS
    runner.once('end', () => {
      const {passes, failures, pending} = this.stats
      if (file) appendFileSync(file, `${JSON.stringify({passes, failures, pending})}\n`)
    })
  }
}
