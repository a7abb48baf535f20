/** Archives as real programs write them: our tree must equal the one that GNU tar makes of the same archive. */
import {execFileSync} from 'node:child_process'
import {
  chmodSync,
  closeSync,
  ftruncateSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  openSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import {join} from 'node:path'
import {expect} from 'chai'
import {resolveLimits} from '../../../src/core/limits.ts'
import {extract} from '../../../src/core/unpack/extract.ts'
import {missing} from '../../support/requires.ts'
import {withTempDir} from '../../support/temp-dir.ts'
import {listTree, treeDifferences} from '../../support/tree-listing.ts'

/** What the source tree may hold beyond what every format can say. */
type Can = {long?: boolean; veryLong?: boolean; sparse?: boolean}

function makeSource(dir: string, can: Can): void {
  mkdirSync(join(dir, 'etc/deep/er'), {recursive: true})
  writeFileSync(join(dir, 'etc/passwd'), 'root:x:0:0\n')
  writeFileSync(join(dir, 'etc/deep/er/größe'), 'UTF-8 name')
  writeFileSync(join(dir, 'etc/empty'), '')
  writeFileSync(join(dir, 'etc/big'), Buffer.alloc(3_000_001, 'imgstore'))
  chmodSync(join(dir, 'etc/passwd'), 0o600)
  symlinkSync('/etc/passwd', join(dir, 'absolute'))
  symlinkSync('../../outside', join(dir, 'etc/outward'))
  linkSync(join(dir, 'etc/big'), join(dir, 'etc/same'))
  if (can.long) {
    const long = join(dir, 'l'.repeat(90), 'm'.repeat(60))
    mkdirSync(long, {recursive: true})
    writeFileSync(join(long, 'n'.repeat(90)), 'a name of 242 bytes')
  }
  if (can.veryLong) {
    const long = join(dir, ...Array.from({length: 4}, (_, i) => String(i).repeat(200)))
    mkdirSync(long, {recursive: true})
    writeFileSync(join(long, 'x'.repeat(255)), 'a name past a kilobyte')
    symlinkSync('t/'.repeat(300), join(dir, 'long-target'))
  }
  if (can.sparse) {
    const fd = openSync(join(dir, 'sparse'), 'w')
    for (let at = 0; at < 60; at++) writeSync(fd, 'data', at * (1 << 20))
    ftruncateSync(fd, 64 << 20)
    closeSync(fd)
  }
  utimesSync(join(dir, 'etc/passwd'), 100.5, 100.5)
  utimesSync(join(dir, 'etc/empty'), 0, 0)
  lutimesSync(join(dir, 'absolute'), 1e9, 1e9)
  utimesSync(join(dir, 'etc/deep'), 1e8, 1e8)
  chmodSync(join(dir, 'etc/deep'), 0o555)
}

const python = (format: string): string =>
  `import sys,tarfile; t=tarfile.open(sys.argv[1],'w',format=tarfile.${format}); t.add('.'); t.close()`

const writers: {title: string; program: string; can: Can; command: (blob: string) => string[]}[] = [
  ...['gnu', 'oldgnu', 'pax', 'ustar', 'v7'].map((format) => ({
    title: `GNU tar, ${format}`,
    program: 'tar',
    can: {
      long: format !== 'v7',
      veryLong: !['v7', 'ustar'].includes(format),
      sparse: !['v7', 'ustar'].includes(format),
    },
    command: (blob: string) => [
      ...['tar', `--format=${format}`],
      ...(['v7', 'ustar'].includes(format) ? [] : ['--sparse']),
      ...['-cf', blob, '.'],
    ],
  })),
  ...['0.0', '0.1', '1.0'].map((version) => ({
    title: `GNU tar, PAX sparse ${version}`,
    program: 'tar',
    can: {long: true, veryLong: true, sparse: true},
    command: (blob: string) => [
      ...['tar', '--format=pax', `--sparse-version=${version}`, '--sparse', '-cf', blob],
      ...['sparse', 'etc'],
    ],
  })),
  ...['pax', 'gnutar', 'ustar', 'v7'].map((format) => ({
    title: `bsdtar, ${format}`,
    program: 'bsdtar',
    can: {
      long: format !== 'v7',
      veryLong: !['v7', 'ustar'].includes(format),
      sparse: format === 'pax',
    },
    command: (blob: string) => ['bsdtar', `--format=${format}`, '-cf', blob, '.'],
  })),
  {
    title: 'busybox tar',
    program: 'busybox',
    can: {long: true},
    command: (blob) => ['busybox', 'tar', '-cf', blob, '.'],
  },
  ...['GNU_FORMAT', 'PAX_FORMAT', 'USTAR_FORMAT'].map((format) => ({
    title: `Python tarfile, ${format}`,
    program: 'python3',
    can: {long: true, veryLong: format !== 'USTAR_FORMAT'},
    command: (blob: string) => ['python3', '-c', python(format), blob],
  })),
  {
    title: 'git archive',
    program: 'git',
    can: {long: true, veryLong: true},
    command: (blob) => [
      'sh',
      '-c',
      'git init -q . && git add . && git -c user.name=x -c user.email=x@x commit -qm x && git archive -o "$0" HEAD && rm -rf .git',
      blob,
    ],
  },
]

describe('archives of real writers', () => {
  for (const {title, program, can, command} of writers) {
    it(`come out as GNU tar unpacks them: ${title}`, async function () {
      const reason = missing(`program:${program}`)
      if (reason !== undefined) {
        console.log(`    skipped: ${reason}`)
        this.skip()
      }
      await withTempDir(async (dir) => {
        const [source, blobPath, theirs, ours] = ['source', 'blob', 'theirs', 'ours'].map((name) =>
          join(dir, name),
        ) as [string, string, string, string]
        for (const path of [source, theirs, ours]) mkdirSync(path)
        makeSource(source, can)
        const [name = '', ...args] = command(blobPath)
        execFileSync(name, args, {cwd: source, stdio: ['ignore', 'ignore', 'inherit']})
        // Without delaying, GNU tar spoils the times of directories that an archive comes back to.
        const options = ['--numeric-owner', '--delay-directory-restore', '-xpf']
        execFileSync('tar', [...options, blobPath, '-C', theirs])
        const umask = process.umask(0)
        try {
          const result = await extract({
            blobPath,
            targetDir: ours,
            profile: 'image',
            limits: resolveLimits('image', {}),
          })
          expect(result.warnings).to.deep.equal([])
        } finally {
          process.umask(umask)
        }
        const [actual, expected] = [ours, theirs].map((root) => listTree(root, {blocks: true}))
        // Without an entry for the root, GNU tar leaves the directory as it was and we give it mode 0755.
        if (actual && expected) {
          if (['git', 'tar'].includes(program)) [actual, expected].map((lines) => lines.delete(''))
          expect(treeDifferences(actual, expected)).to.deep.equal([])
          expect(actual.size).to.be.greaterThan(8)
        }
        execFileSync('chmod', ['-R', 'u+w', dir])
      })
    })
  }
})
