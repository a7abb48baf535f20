/** Certificates of a test's own: a CA and a server key signed by it, made by openssl. */
import {execFileSync} from 'node:child_process'
import {readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'

export type TestCa = {caFile: string; key: string; cert: string}

/** Makes them in `dir` for the address 127.0.0.1 (or the names given), valid for a day. */
export function makeTestCa(dir: string, subjectAltName = 'IP:127.0.0.1,DNS:localhost'): TestCa {
  const run = (...args: string[]): void => {
    execFileSync('openssl', args, {cwd: dir, stdio: 'pipe'})
  }
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  const authority = ['-addext', 'basicConstraints=critical,CA:TRUE']
  run(
    'req',
    '-x509',
    ...curve,
    '-keyout',
    'ca.key',
    '-out',
    'ca.pem',
    '-days',
    '1',
    '-subj',
    '/CN=imgstore test CA',
    ...authority,
  )
  run(
    'req',
    ...curve,
    '-keyout',
    'server.key',
    '-out',
    'server.csr',
    '-subj',
    '/CN=imgstore test server',
  )
  writeFileSync(join(dir, 'extensions'), `subjectAltName=${subjectAltName}\n`)
  run(
    'x509',
    '-req',
    '-in',
    'server.csr',
    '-CA',
    'ca.pem',
    '-CAkey',
    'ca.key',
    '-CAcreateserial',
    '-days',
    '1',
    '-extfile',
    'extensions',
    '-out',
    'server.pem',
  )
  return {
    caFile: join(dir, 'ca.pem'),
    key: readFileSync(join(dir, 'server.key'), 'utf8'),
    cert: readFileSync(join(dir, 'server.pem'), 'utf8'),
  }
}
