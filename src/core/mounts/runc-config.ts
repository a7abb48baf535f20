/** The OCI runtime configuration with which runc starts a program in an image; a pure function. */
import {keptCapabilities, maskedProcPaths, readonlyProcPaths, type EnterPlan} from './enter-plan.ts'
import type {ImageUser} from './enter-user.ts'

/**
 * Builds config.json.
 *
 * Guarantees: own mount, ipc, uts namespaces, a network namespace unless the host's is kept; the pid namespace is
 * the one runc is started in. No capability but the kept ones; no new privileges.
 * Source: OCI runtime-spec v1.0.2, config.md and config-linux.md.
 */
export function runcConfig(plan: EnterPlan, user: ImageUser): Record<string, unknown> {
  const capabilities = Object.keys(keptCapabilities)
  const {uid, gid} = user
  return {
    ociVersion: '1.0.2',
    process: {
      terminal: plan.isTerminal,
      user: {uid, gid},
      args: plan.command,
      env: Object.entries(plan.env).map(([name, value]) => `${name}=${value}`),
      cwd: plan.cwd,
      capabilities: {
        bounding: capabilities,
        effective: uid === 0 ? capabilities : [],
        permitted: uid === 0 ? capabilities : [],
        inheritable: [],
      },
      noNewPrivileges: true,
    },
    root: {path: plan.rootDir, readonly: false},
    hostname: plan.hostname,
    mounts: [
      fileSystem('/proc', 'proc', ['nosuid', 'noexec', 'nodev']),
      fileSystem('/dev', 'tmpfs', ['nosuid', 'noexec', 'strictatime', 'mode=755', 'size=64k']),
      fileSystem('/dev/pts', 'devpts', [
        ...['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
      ]),
      fileSystem('/dev/shm', 'tmpfs', ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=64m']),
      fileSystem('/sys', 'sysfs', ['nosuid', 'noexec', 'nodev', 'ro']),
    ],
    linux: {
      cgroupsPath: `/${plan.runc?.id ?? 'imgstore'}`,
      namespaces: [
        {type: 'mount'},
        {type: 'ipc'},
        {type: 'uts'},
        ...(plan.hasHostNetwork ? [] : [{type: 'network'}]),
      ],
      // Nothing but the devices that runc itself makes (null, zero, full, random, urandom, tty).
      resources: {devices: [{allow: false, access: 'rwm'}]},
      maskedPaths: [...maskedProcPaths.map((name) => `/proc/${name}`), '/sys/firmware'],
      readonlyPaths: readonlyProcPaths.map((name) => `/proc/${name}`),
    },
  }
}

function fileSystem(destination: string, type: string, options: string[]): Record<string, unknown> {
  return {destination, type, source: type, options}
}
