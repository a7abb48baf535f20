/** nginx with a file of deploy/nginx, changed no more than its reader is told to change it, and no trace of it afterwards. */
import {spawnSync} from 'node:child_process'
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {connect} from 'node:net'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {until, type Scene} from './program.ts'
import {makeTestCa} from './test-ca.ts'

export type Front = {port: number; ca: string; stop(): Promise<void>}

/** Replaces a text that must be there. */
export function replaced(text: string, before: string | RegExp, after: string): string {
  const changed = text.replaceAll(before, after)
  if (changed === text) throw new Error(`nothing to replace: ${before.toString()}`)
  return changed
}

/** Starts nginx on `port` in front of `upstreamPort`, both of loopback. */
export async function startNginx(
  scene: Scene,
  o: {file: string; port: number; upstreamPort: number},
): Promise<Front> {
  const dir = join(scene.dir, `nginx-${o.port}`)
  mkdirSync(join(dir, 'logs'), {recursive: true})
  const ca = makeTestCa(dir)
  writeFileSync(join(dir, 'images.crt'), ca.cert)
  writeFileSync(join(dir, 'images.key'), ca.key)
  const path = fileURLToPath(new URL(`../../deploy/nginx/${o.file}`, import.meta.url))
  let text = readFileSync(path, 'utf8')
  text = replaced(text, '127.0.0.1:8080', `127.0.0.1:${o.upstreamPort}`)
  text = replaced(text, /listen 443/g, `listen 127.0.0.1:${o.port}`)
  text = replaced(text, /listen \[::\]:443 .*$/gm, '')
  text = replaced(text, 'images.example.com', 'localhost')
  text = replaced(text, '/etc/nginx/tls', dir)
  writeFileSync(join(dir, 'server.conf'), text)
  const kinds = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  writeFileSync(
    join(dir, 'nginx.conf'),
    `daemon off; worker_processes 1; pid ${dir}/pid; error_log ${dir}/logs/error.log;
${process.getuid?.() === 0 ? 'user root;' : ''}
events { worker_connections 1024; }
http {
  include /etc/nginx/mime.types;
  default_type application/octet-stream;
  gzip on;
  access_log off;
  ${kinds.map((kind) => `${kind}_temp_path ${dir}/${kind};`).join('\n  ')}
  include ${dir}/server.conf;
}
`,
  )
  const args = ['-p', dir, '-c', join(dir, 'nginx.conf'), '-e', join(dir, 'logs/error.log')]
  const checked = spawnSync('nginx', ['-t', ...args], {encoding: 'utf8'})
  if (checked.status !== 0) throw new Error(`nginx -t: ${checked.stderr}`)
  // Whatever it warns of would be a fault of the file.
  if (checked.stderr.includes('[warn]')) throw new Error(`nginx warns: ${checked.stderr}`)
  const running = scene.start(args, {command: 'nginx'})
  await until('nginx to listen', async () => {
    if (running.isOver) throw new Error(`nginx ended: ${running.out.stderr}`)
    return await isListening(o.port)
  })
  return {
    port: o.port,
    ca: readFileSync(ca.caFile, 'utf8'),
    stop: async () => {
      running.kill('SIGQUIT')
      await running.exited
    },
  }
}

function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}
