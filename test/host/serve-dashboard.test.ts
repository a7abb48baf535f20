/** The dashboard of deploy/grafana with a real Prometheus: every query of it gives something. */
import {spawnSync} from 'node:child_process'
import {mkdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {expect} from 'chai'
import {randomBytesOf} from '../support/disk-images.ts'
import {useScenes, until} from '../support/program.ts'
import {startPrometheus} from '../support/prometheus-server.ts'
import {requires} from '../support/requires.ts'
import {startServe} from '../support/serve-process.ts'

type Panel = {title: string; targets?: {expr: string}[]; panels?: Panel[]}
type Dashboard = {panels: Panel[]; templating: {list: {name: string; query: string}[]}}

const path = fileURLToPath(new URL('../../deploy/grafana/imgstore-serve.json', import.meta.url))
const dashboard = JSON.parse(readFileSync(path, 'utf8')) as Dashboard
const panelsOf = (panels: Panel[]): Panel[] =>
  panels.flatMap((panel) => [panel, ...panelsOf(panel.panels ?? [])])
const queries = panelsOf(dashboard.panels).flatMap(({title, targets = []}) =>
  targets.map(({expr}) => ({title, expr})),
)

/** A query as Grafana sends it, with its variables put in. */
function substituted(expression: string): string {
  const text = expression
    .replaceAll('$__rate_interval', '30s')
    .replaceAll('$__interval', '5s')
    .replaceAll('$instance', '.*')
  expect(text).to.not.include('$')
  return text
}

describe('the dashboard', function () {
  requires('program:prometheus', 'program:promtool')
  this.timeout(120_000)
  const makeScene = useScenes()

  it('has a name for every panel and asks something in each', () => {
    for (const panel of panelsOf(dashboard.panels)) {
      expect(panel.title).to.not.equal('')
      expect(panel.targets, panel.title).to.not.be.empty
    }
    expect(queries.length).to.be.greaterThan(10)
  })

  it('shows data in every panel, of metrics that Prometheus finds well formed', async () => {
    const scene = makeScene()
    const images = join(scene.dir, 'images')
    mkdirSync(images)
    writeFileSync(join(images, 'disk.img'), randomBytesOf(1_000_000))
    const serving = await startServe(scene, ['--images-root', images])
    const metrics = async (): Promise<string> =>
      await (await fetch(`${serving.url}/metrics`)).text()
    const ask = async (path: string, range?: string): Promise<void> => {
      const answer = await fetch(serving.url + path, range ? {headers: {range}} : {})
      await answer.arrayBuffer()
    }
    const traffic = async (): Promise<void> => {
      await ask('/v1/images')
      await ask('/v1/images/disk.img/data', 'bytes=100-70000')
      await ask('/v1/images/disk.img', 'bytes=9999999-')
      await ask('/v1/images/none')
    }
    const prometheus = await startPrometheus(scene, serving.url.replace('http://', ''))
    try {
      await until('some scrapes with traffic between them', async () => {
        await traffic()
        return (await prometheus.scrapes()) >= 4
      })
      const text = await metrics()
      const checked = spawnSync('promtool', ['check', 'metrics'], {
        input: text,
        encoding: 'utf8',
      })
      // The names of prom-client's own metrics are what everybody's dashboards know.
      const faults = `${checked.stderr}${checked.stdout}`.trim().split('\n')
      expect(
        faults.filter((line) => !/^nodejs_active_\w+_total non-counter/.test(line)),
      ).to.deep.equal([])
      // 3: it can be read, and something about it could be better.
      expect(checked.status).to.equal(3)

      for (const {title, expr} of queries) {
        const samples = await prometheus.query(substituted(expr))
        expect(samples, `${title}: ${expr}`).to.not.be.empty
        // A sum over no series would be a number, too: every metric of the query must be there.
        for (const [name] of expr.matchAll(/\b[a-z_]+(?=\{)/g))
          expect(await prometheus.query(name), name).to.not.be.empty
      }
      for (const name of ['Requests a second', 'Bytes by image', 'Range requests']) {
        const query = queries.find(({title}) => title === name)
        const samples = await prometheus.query(substituted(query?.expr ?? ''))
        expect(
          samples.some(({value}) => Number(value[1]) > 0),
          name,
        ).to.equal(true)
      }
      for (const {name, query} of dashboard.templating.list.filter(
        ({name}) => name !== 'datasource',
      )) {
        const [, metric = '', label = ''] = /^label_values\((\w+), (\w+)\)$/.exec(query) ?? []
        const found = await prometheus.query(metric)
        expect(
          found.map(({metric}) => metric[label]),
          name,
        ).to.deep.equal([serving.url.replace('http://', '')])
      }
    } finally {
      await prometheus.stop()
      serving.running.kill('SIGTERM')
    }
    expect((await serving.running.exited).code).to.equal(0)
    rmSync(join(scene.dir, 'prometheus'), {recursive: true})
  })
})
