/** Stands in for systemd: receives what programs send to NOTIFY_SOCKET. Needs python3, as Node has no such sockets. */
import {spawn, type ChildProcess} from 'node:child_process'
import {once} from 'node:events'
import {join} from 'node:path'
import {createInterface} from 'node:readline'

// Prints each message as one line of JSON with the process that sent it, as the kernel attests it.
const receiver = `
import json, os, socket, struct, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o777)
s.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
print('ready', flush=True)
while True:
    data, ancillary, _, _ = s.recvmsg(65536, socket.CMSG_SPACE(12) + socket.CMSG_SPACE(64))
    pid = 0
    for level, kind, value in ancillary:
        if kind == socket.SCM_CREDENTIALS:
            pid = struct.unpack('3i', value[:12])[0]
        elif kind == socket.SCM_RIGHTS:
            for (fd,) in struct.iter_unpack('i', value[:len(value) // 4 * 4]):
                os.close(fd)
    print(json.dumps({'pid': pid, 'lines': data.decode().split('\\n')}), flush=True)
`

export type Notification = {pid: number; lines: string[]}

export type NotifySocket = {
  path: string
  /** Everything received so far, without the BARRIER by which systemd-notify waits to be read. */
  received: Notification[]
  /** Resolves when a message with this line (or one that matches) is there, from `after` on. */
  waitFor(line: string | RegExp, after?: number): Promise<Notification>
}

const running = new Set<ChildProcess>()

/** Ends what a test that ran out of time left behind: its waits then fail. Call in `afterEach`. */
export async function killReceivers(): Promise<void> {
  const left = [...running].map(async (child) => {
    const gone = once(child, 'close')
    child.kill('SIGKILL')
    await gone
  })
  await Promise.all(left)
}

export async function withNotifySocket<T>(
  dir: string,
  body: (socket: NotifySocket) => Promise<T>,
): Promise<T> {
  const path = join(dir, 'notify.sock')
  const child = spawn('python3', ['-c', receiver, path], {stdio: ['ignore', 'pipe', 'inherit']})
  running.add(child)
  const exited = once(child, 'close')
  const lines = createInterface({input: child.stdout})
  const received: Notification[] = []
  let wake: (() => void) | undefined
  child.once('close', () => {
    running.delete(child)
    wake?.()
  })
  await once(lines, 'line')
  lines.on('line', (line) => {
    const message = JSON.parse(line) as Notification
    if (message.lines[0] === 'BARRIER=1') return
    received.push(message)
    wake?.()
  })
  const matches = (message: Notification, line: string | RegExp): boolean =>
    message.lines.some((text) => (typeof line === 'string' ? text === line : line.test(text)))
  try {
    return await body({
      path,
      received,
      waitFor: async (line, after = 0) => {
        for (;;) {
          const found = received.slice(after).find((message) => matches(message, line))
          if (found) return found
          if (!running.has(child)) throw new Error(`nobody sent ${String(line)}`)
          await new Promise<void>((resolve) => {
            wake = resolve
          })
        }
      },
    })
  } finally {
    child.kill('SIGKILL')
    await exited
  }
}
