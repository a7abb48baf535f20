import {expect} from 'chai'
import {spawn} from 'node:child_process'
import {once} from 'node:events'
import {resolve} from 'node:path'
import {createInterface} from 'node:readline'

/** Runs a program that catches signals and never stops by itself; `on` gets each line it prints. */
async function exitOf(
  stopWithinMs: number,
  on: (line: string, kill: (signal: NodeJS.Signals) => void) => void,
): Promise<{code: number | null; lines: string[]}> {
  const script = `
    import {catchSignals} from ${JSON.stringify(resolve('src/daemon/signals.ts'))}
    const hold = setInterval(() => {}, 1000)
    const signals = catchSignals({
      stopWithinMs: ${stopWithinMs},
      onStop: (signal) => console.log('stop ' + signal),
      onReload: () => console.log('reload'),
      onLate: () => console.log('late'),
    })
    console.log('ready')
  `
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const lines: string[] = []
  createInterface({input: child.stdout}).on('line', (line) => {
    lines.push(line)
    on(line, (signal) => child.kill(signal))
  })
  const [code] = (await once(child, 'close')) as [number | null]
  return {code, lines}
}

describe('signals of a long-running process', () => {
  it('ask it to stop the first time and end it at once the second time, whichever they are', async () => {
    const result = await exitOf(60_000, (line, kill) => {
      if (line === 'ready') kill('SIGTERM')
      if (line === 'stop SIGTERM') kill('SIGINT')
    })
    expect(result).to.deep.equal({code: 130, lines: ['ready', 'stop SIGTERM']})
  })

  it('reload as often as they come, until it stops', async () => {
    let reloads = 0
    const result = await exitOf(60_000, (line, kill) => {
      if (line === 'ready') kill('SIGHUP')
      if (line === 'reload') kill(++reloads < 2 ? 'SIGHUP' : 'SIGINT')
      if (line === 'stop SIGINT') {
        kill('SIGHUP')
        kill('SIGTERM')
      }
    })
    expect(result).to.deep.equal({code: 130, lines: ['ready', 'reload', 'reload', 'stop SIGINT']})
  })

  it('end it when it does not stop in time', async () => {
    const result = await exitOf(50, (line, kill) => {
      if (line === 'ready') kill('SIGTERM')
    })
    expect(result).to.deep.equal({code: 1, lines: ['ready', 'stop SIGTERM', 'late']})
  })
})
