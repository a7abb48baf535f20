/**
 * Run as a process of its own, as another user: opens the store argv[3] with the database argv[4], drains what is
 * to be done and prints the status of every image as JSON.
 */
import {resolveSettings} from '../../src/core/settings.ts'
import {openStore} from '../../src/core/store.ts'

const [store, db] = process.argv.slice(2)
const flags = {store, db, pollMs: '10ms', retryWaitMs: '1ms'}
const opened = await openStore({
  ...resolveSettings({flags, env: {}, dataDir: '/nonexistent', cwd: '/'}),
  role: 'worker',
})
await opened.work({signal: new AbortController().signal, once: true})
console.log(JSON.stringify(await opened.images.list()))
await opened.close()
