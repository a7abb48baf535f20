/**
 * A machine that can lose its power: qemu with Debian's own kernel, this host's files read-only as its root, and a disk
 * that outlives it. Emulated, because not every host lends its processor: about ten times slower than the host.
 */
import {execFileSync, spawn, type ChildProcess} from 'node:child_process'
import {once} from 'node:events'
import {chmodSync, mkdtempSync, realpathSync, rmSync, truncateSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import type {Need} from './requires.ts'

const home = realpathSync(join(import.meta.dirname, '../..'))
const cacheDir = realpathSync(join(home, '.cache'))
const kernelDir = join(cacheDir, 'vm')

export const machineNeeds: Need[] = [
  ...(['root', 'program:qemu-system-x86_64', 'program:mkfs.ext4'] as const),
  ...(['program:busybox', 'program:depmod', 'program:cpio', 'program:xz'] as const),
]

export class VirtualMachine {
  /** On the host, and under the same name in the machine, where it is read-only. */
  readonly dir = mkdtempSync(join(cacheDir, 'machine-'))
  /** What was printed since power was last given. */
  output = ''
  #child: ChildProcess | undefined
  readonly #disk = join(this.dir, 'disk')

  constructor(diskBytes: number) {
    execFileSync(join(home, 'scripts/vm-kernel.sh'), [kernelDir], {stdio: 'inherit'})
    writeFileSync(this.#disk, '')
    truncateSync(this.#disk, diskBytes)
    execFileSync('mkfs.ext4', ['-q', '-F', this.#disk])
  }

  /** Gives it power; it mounts the disk at /mnt, runs the lines of a shell script, and ends when they are done. */
  start(lines: readonly string[]): void {
    const script = join(this.dir, 'script')
    const path = `${join(realpathSync(process.execPath), '..')}:/usr/sbin:/usr/bin:/sbin:/bin`
    const head = ['#!/bin/sh', `export PATH=${path} HOME=/tmp`, `cd ${home}`]
    writeFileSync(script, [...head, ...lines, ''].join('\n'))
    chmodSync(script, 0o755)
    this.output = ''
    const child = spawn(
      'qemu-system-x86_64',
      [
        ...['-accel', 'tcg', '-cpu', 'max', '-m', '2048', '-nographic', '-no-reboot'],
        ...['-kernel', join(kernelDir, 'vmlinuz'), '-initrd', join(kernelDir, 'initrd')],
        ...['-append', `console=ttyS0 quiet panic=-1 imgstore_run=${script}`],
        ...['-drive', `file=${this.#disk},format=raw,if=virtio`],
        ...[
          '-virtfs',
          'local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap',
        ],
      ],
      {stdio: ['ignore', 'pipe', 'inherit']},
    )
    child.stdout.setEncoding('utf8').on('data', (text: string) => (this.output += text))
    this.#child = child
  }

  /** Waits until it printed a line that matches, and gives what matched; fails when it ends before. */
  async printed(what: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const found = what.exec(this.output)
      if (found !== null) return found
      if (this.#isOver()) throw new Error(`it ended without ${String(what)}: ${this.output}`)
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }

  /** Takes its power away: what it has not made durable is lost. */
  async cutPower(): Promise<void> {
    const child = this.#child
    if (child === undefined || this.#isOver()) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }

  /** Waits until its script is done and it is off. */
  async ended(): Promise<void> {
    if (this.#child !== undefined && !this.#isOver()) await once(this.#child, 'exit')
  }

  async close(): Promise<void> {
    await this.cutPower()
    rmSync(this.dir, {recursive: true, force: true})
  }

  #isOver(): boolean {
    return this.#child?.exitCode !== null || this.#child.signalCode !== null
  }
}
