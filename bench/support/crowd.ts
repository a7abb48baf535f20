/**
 * The clients nobody wants, for bench/slow-clients.ts: `node crowd.ts PORT PATH BYTES SLOW HALF_OPEN`.
 *
 * SLOW connections ask for BYTES bytes and take 16 KiB a second of them; of the HALF_OPEN ones, half send nothing and half
 * begin a request and never end it. Whoever is cut off comes back. They come from eight addresses of loopback.
 * Prints a line once all are connected; ends with its standard input.
 */
import {connect, type Socket} from 'node:net'

const [portText = '', path = '', ...counts] = process.argv.slice(2)
const port = Number(portText)
const [bytes = 0, slow = 0, halfOpen = 0] = counts.map(Number)

const sliceBytes = 1600
const sliceEveryMs = 100
const backAfterMs = 200
let connectedCount = 0

function open(index: number, onConnect: (socket: Socket) => void): void {
  const localAddress = `127.0.0.${2 + (index % 8)}`
  const socket = connect({port, host: '127.0.0.1', localAddress})
  let isCounted = false
  socket.once('connect', () => {
    isCounted = true
    if (++connectedCount === slow + halfOpen) console.log('all are connected')
    onConnect(socket)
  })
  socket.on('error', () => undefined)
  socket.once('close', () => {
    if (isCounted) connectedCount--
    setTimeout(() => open(index, onConnect), backAfterMs)
  })
}

/** Reads by hand, a little at a time, so that the kernel's buffers fill up behind it. */
function readSlowly(socket: Socket): void {
  socket.write(`GET ${path} HTTP/1.1\r\nHost: crowd\r\nRange: bytes=0-${bytes - 1}\r\n\r\n`)
  socket.on('readable', () => undefined)
  socket.on('end', () => socket.destroy())
  const timer = setInterval(
    () => void socket.read(Math.min(sliceBytes, socket.readableLength)),
    sliceEveryMs,
  )
  socket.once('close', () => clearInterval(timer))
}

for (let i = 0; i < slow; i++) open(i, readSlowly)
for (let i = 0; i < halfOpen; i++) {
  open(i, (socket) => {
    socket.resume().on('end', () => socket.destroy())
    if (i % 2 === 0) socket.write(`GET ${path} HTTP/1.1\r\nHost: crowd\r\nX-Never-End`)
  })
}
process.stdin.resume().once('end', () => process.exit())
