/** The built server as a child process of a scene. */
import {until, type Running, type Scene} from './program.ts'

export type Serving = {running: Running; url: string; port: number}

/** Starts `imgstore serve` on a free port of loopback (arguments may say another) and waits until it listens. */
export async function startServe(
  scene: Scene,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Serving> {
  const where = args.includes('--listen-addr') ? [] : ['--listen-addr', '127.0.0.1:0']
  const running = scene.start(['serve', ...where, ...args], {env})
  const address = await until('the server to listen', () => {
    if (running.isOver) throw new Error(`serve ended: ${running.out.stdout}${running.out.stderr}`)
    return /"address":"([^"]+)"/.exec(running.out.stdout)?.[1]
  })
  return {running, url: `http://${address}`, port: Number(/\d+$/.exec(address)?.[0])}
}
