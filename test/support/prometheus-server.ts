/** Debian's Prometheus over one target of loopback, and no trace of it afterwards. */
import {mkdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {freePorts} from './free-ports.ts'
import {until, type Scene} from './program.ts'

export type Sample = {metric: Record<string, string>; value: [number, string]}

export type Prometheus = {
  /** The samples that a PromQL expression gives now; a bad expression is an error. */
  query(expression: string): Promise<Sample[]>
  /** How often the target was scraped well. */
  scrapes(): Promise<number>
  stop(): Promise<void>
}

export async function startPrometheus(scene: Scene, target: string): Promise<Prometheus> {
  const dir = join(scene.dir, 'prometheus')
  mkdirSync(dir)
  const config = join(dir, 'prometheus.yml')
  writeFileSync(
    config,
    `global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs: [{job_name: imgstore, static_configs: [{targets: ['${target}']}]}]
`,
  )
  const [port = 0] = await freePorts(1)
  const running = scene.start(
    [
      `--config.file=${config}`,
      `--storage.tsdb.path=${join(dir, 'data')}`,
      `--web.listen-address=127.0.0.1:${port}`,
    ],
    {command: 'prometheus'},
  )
  const url = `http://127.0.0.1:${port}`
  await until('Prometheus to be ready', async () => {
    if (running.isOver) throw new Error(`Prometheus ended: ${running.out.stderr}`)
    return await fetch(`${url}/-/ready`).then(
      ({ok}) => ok,
      () => false,
    )
  })
  const query = async (expression: string): Promise<Sample[]> => {
    const answer = await fetch(
      `${url}/api/v1/query?${new URLSearchParams({query: expression}).toString()}`,
    )
    const said = (await answer.json()) as {error?: string; data?: {result: Sample[]}}
    if (!said.data) throw new Error(`${expression}: ${said.error}`)
    return said.data.result
  }
  return {
    query,
    scrapes: async () => Number((await query('sum(sum_over_time(up[1h]))'))[0]?.value[1] ?? 0),
    stop: async () => {
      running.kill('SIGTERM')
      await running.exited
    },
  }
}
