import type {Interfaces} from '@oclif/core'
import {BaseCommand} from '../cli/base-command.ts'
import {settingFlags} from '../cli/flags.ts'
import {openShownDisks} from '../core/store.ts'

export default class Serve extends BaseCommand {
  static override summary = 'Serve disk images over HTTP, by range and in chunks.'
  static override description = `Serves a directory of disk images to browsers and virtual machines, as aero-storage-server does: the same paths, answers, flags and variables. The disks that are ACTIVE in the store (fetch --kind disk) are served beside it. What changes is served from the next request on. SIGTERM and SIGINT let answers under way end; SIGHUP reads settings, certificates and secrets again.`
  static override usage = 'serve [flags]'
  static override examples = [
    {
      description: 'Serve the images of a directory at port 8080.',
      command: '<%= config.bin %> serve --images-root /srv/images',
    },
    {
      description: 'Serve to the pages of one site only, by HTTPS and HTTP/2.',
      command:
        '<%= config.bin %> serve --images-root /srv/images --listen-addr 0.0.0.0:8443 --tls-cert cert.pem --tls-key key.pem --cors-origin https://app.example',
    },
    {
      description: 'Ask for a lease before a private image is sent.',
      command:
        '<%= config.bin %> serve --images-root /srv/images --lease-secret-file secret --lease-token-file tokens --lease-ttl 10m',
    },
  ]

  static override flags: Interfaces.FlagInput = {
    ...settingFlags([
      'listenAddr',
      'imagesRoot',
      'requireManifest',
      'requireRange',
      'maxRangeBytes',
      'maxChunkBytes',
      'maxConcurrentBytesRequests',
      'serveLogLevel',
      'sender',
    ]),
    ...settingFlags(
      ['corsOrigins', 'resourcePolicy', 'corsPreflightMaxAgeSecs', 'publicCacheMaxAgeSecs', 'page'],
      'BROWSERS AND CACHES',
    ),
    ...settingFlags(
      [
        'tlsCert',
        'tlsKey',
        'leaseSecretFile',
        'leaseTokenFile',
        'leaseTtlMs',
        'publicUrl',
        'disableMetrics',
        'metricsAuthToken',
        'metricsAuthTokenFile',
      ],
      'ACCESS',
    ),
    ...settingFlags(
      [
        'maxConnections',
        'maxConnectionsPerClient',
        'headerTimeoutMs',
        'idleTimeoutMs',
        'slowReaderTimeoutMs',
        'slowReaderGraceMs',
        'drainTimeoutMs',
      ],
      'LIMITS',
    ),
  }

  async run(): Promise<void> {
    const {flags} = await this.parse(Serve)
    const {runServe} = await import('../daemon/serve.ts')
    const configuration = this.configure(flags)
    this.exitStatus = await runServe({
      ...configuration,
      configure: () => this.configure(flags),
      disks: openShownDisks(configuration.settings),
    })
  }
}
