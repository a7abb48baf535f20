import {Flags} from '@oclif/core'
import {BaseCommand} from '../cli/base-command.ts'
import {formatCount, printable, table} from '../cli/print.ts'
import {fail} from '../core/errors.ts'
import type {DoctorReport, RepairItem, RepairReport} from '../core/store.ts'

export default class Doctor extends BaseCommand {
  static override summary = 'Check what this host has and lacks, and mend the store.'
  static override description = `Mounts, privileges, space, database, clock, programs; says how to get what is missing. Changes nothing without --repair.

With --repair it looks for what faults left in the store instead, and mends it: rows without files, files without rows, half trees, stale mounts, runs of the dead. Images that lost their bytes are set back, so that the next worker fetches or makes them again; what was written into an image is kept. A worker may be at work meanwhile.

Exit codes: 0 nothing fails or all is mended, 3 something could not be mended (it is named), 15 something fails or the database is damaged.`
  static override usage = 'doctor [flags]'
  static override examples = [
    {description: 'Check the host.', command: '<%= config.bin %> doctor'},
    {
      description: 'Show every setting and where it came from.',
      command: '<%= config.bin %> doctor --settings',
    },
    {
      description: 'Show what there is to mend in the store.',
      command: '<%= config.bin %> doctor --repair --dry-run',
    },
    {description: 'Mend it.', command: '<%= config.bin %> doctor --repair'},
  ]

  static override flags = {
    settings: Flags.boolean({
      default: false,
      description: 'Also show every setting, its value and where it came from.',
    }),
    repair: Flags.boolean({
      default: false,
      description: 'Mend what does not fit together in the store.',
    }),
    'dry-run': Flags.boolean({
      char: 'n',
      default: false,
      description: 'With --repair: only show what would be mended.',
    }),
  }

  async run(): Promise<DoctorReport | RepairReport> {
    const {flags} = await this.parse(Doctor)
    if (flags.repair && flags.settings)
      throw fail('wrong_usage', {reason: '--repair and --settings do not go together'})
    if (flags['dry-run'] && !flags.repair)
      throw fail('wrong_usage', {reason: '--dry-run goes with --repair'})
    if (flags.repair) return this.repair(flags, flags['dry-run'])
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

  private repair(
    flags: Parameters<BaseCommand['withStore']>[0],
    isDryRun: boolean,
  ): Promise<RepairReport> {
    return this.withStore(flags, 'repair', async (store) => {
      const report = await store.maintenance.repair({isDryRun})
      if (!report.isSound && !isDryRun) this.exitStatus = 3
      this.print(...repairLines(report, flags['quiet'] === true))
      return report
    })
  }
}

function repairLines({items, isDryRun}: RepairReport, isQuiet: boolean): string[] {
  const lines = items.map((item) => {
    const what = [item.kind, item.image, item.path].filter((word) => word !== undefined)
    return `${printable(what.join(' '))}: ${printable(item.problem)}; ${outcomeOf(item, isDryRun)}`
  })
  if (isQuiet) return lines
  const left = items.filter((item) => !item.done).length
  const things = formatCount(items.length - left, 'thing')
  if (items.length === 0) return ['Nothing to mend']
  if (isDryRun) return [...lines, '', `Would mend ${formatCount(items.length, 'thing')}`]
  return [...lines, '', `Mended ${things}${left === 0 ? '' : `, ${left} not`}`]
}

function outcomeOf({action, error}: RepairItem, isDryRun: boolean): string {
  if (error) return `NOT MENDED: ${printable(error.message)}`
  return isDryRun ? `would be: ${printable(action)}` : printable(action)
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
