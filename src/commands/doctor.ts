import {Flags} from '@oclif/core'
import {BaseCommand} from '../cli/base-command.ts'
import {printable, table} from '../cli/print.ts'
import type {DoctorReport} from '../core/store.ts'

export default class Doctor extends BaseCommand {
  static override summary = 'Check what this host has and lacks.'
  static override description = `Mounts, privileges, space, database, clock, programs; says how to get what is missing. Changes nothing.

Exit codes: 0 nothing fails, 15 something does.`
  static override usage = 'doctor [flags]'
  static override examples = [
    {description: 'Check the host.', command: '<%= config.bin %> doctor'},
    {
      description: 'Show every setting and where it came from.',
      command: '<%= config.bin %> doctor --settings',
    },
  ]

  static override flags = {
    settings: Flags.boolean({
      default: false,
      description: 'Also show every setting, its value and where it came from.',
    }),
  }

  async run(): Promise<DoctorReport> {
    const {flags} = await this.parse(Doctor)
    return this.withStore(flags, 'read', async (store) => {
      const report = await store.maintenance.doctor()
      if (!report.isOk) this.exitStatus = 15
      this.print(...checkLines(report, flags.quiet))
      if (flags.settings) this.print('', ...settingLines(report))
      else {
        const {settings, origins} = store
        if (!flags.quiet)
          this.print('', `Store: ${printable(settings.store)} (${printable(origins.store)})`)
      }
      return report
    })
  }
}

function checkLines(report: DoctorReport, isQuiet: boolean): string[] {
  const shown = report.checks.filter((check) => !isQuiet || check.status !== 'ok')
  const width = Math.max(0, ...shown.map((check) => check.name.length))
  return shown.flatMap((check) => {
    const line = `${check.status.padEnd(4)}  ${check.name.padEnd(width)}  ${printable(check.detail)}`
    const hint = check.hint === undefined || check.status === 'ok' ? [] : [check.hint]
    return [line, ...hint.map((text) => `${' '.repeat(width + 8)}Try: ${printable(text)}`)]
  })
}

function settingLines(report: DoctorReport): string[] {
  return table(
    ['SETTING', 'VALUE', 'FROM', 'FLAG', 'ENVIRONMENT'],
    report.settings.map((setting) => [
      setting.key,
      setting.value === '' ? '-' : printable(setting.value),
      printable(setting.origin),
      setting.flag === undefined ? '-' : `--${setting.flag.replace(/^--/, '')}`,
      setting.env.join(' '),
    ]),
  )
}
