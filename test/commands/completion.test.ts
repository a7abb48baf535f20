/** The completion scripts, asked by the shells themselves. */
import {spawnSync} from 'node:child_process'
import {chmodSync, mkdirSync, writeFileSync} from 'node:fs'
import {join, resolve} from 'node:path'
import {expect} from 'chai'
import {bashScript} from '../../src/cli/completion/bash.ts'
import {fishScript} from '../../src/cli/completion/fish.ts'
import {modelOf, nextWords, type CommandModel} from '../../src/cli/completion/model.ts'
import {zshScript} from '../../src/cli/completion/zsh.ts'
import {commandIds, compileCache, loadCommand, runCommand} from '../support/run-command.ts'
import {requires} from '../support/requires.ts'
import {withTempDir} from '../support/temp-dir.ts'

async function loadModels(): Promise<CommandModel[]> {
  const all = await Promise.all(commandIds().map((id) => loadCommand(id)))
  // As oclif writes them into its manifest: with the flags of the base class.
  const statics = all.map((command) => ({
    id: command.id,
    summary: command.summary,
    args: (command as {args?: unknown}).args ?? {},
    flags: {...command.baseFlags, ...command.flags},
  }))
  return modelOf(statics as unknown as Parameters<typeof modelOf>[0])
}

/** Runs a shell with an `imgstore` in PATH that works on a store with images `web` and `worker-1`; `an other/store` has `far`. */
async function inShell(shell: string, text: string, script: string): Promise<string> {
  return await withTempDir(async (dir) => {
    const store = join(dir, 'store')
    for (const name of ['web', 'worker-1'])
      await runCommand('fetch', name, 'http://127.0.0.1:9/x', '0'.repeat(64), '--store', store)
    const other = join(dir, 'an other/store')
    await runCommand('fetch', 'far', 'http://127.0.0.1:9/x', '0'.repeat(64), '--store', other)
    mkdirSync(join(dir, 'bin'))
    const main = resolve('test/support/run-command-main.ts')
    writeFileSync(
      join(dir, 'bin/imgstore'),
      `#!/bin/sh\nexport IMGSTORE_STORE_PATH='${store}' NODE_COMPILE_CACHE='${compileCache}'\nexec '${process.execPath}' '${main}' "$@"\n`,
    )
    chmodSync(join(dir, 'bin/imgstore'), 0o755)
    writeFileSync(join(dir, 'completion'), script)
    const {stdout, stderr, status} = spawnSync(
      shell,
      [...(shell === 'zsh' ? ['-f'] : []), '-c', text],
      {
        encoding: 'utf8',
        cwd: dir,
        env: {
          PATH: `${join(dir, 'bin')}:/usr/bin:/bin`,
          HOME: dir,
          TERM: 'xterm',
          LC_ALL: 'C.UTF-8',
        },
      },
    )
    expect(stderr).to.equal('')
    expect(status).to.equal(0)
    return stdout
  })
}

describe('imgstore completion', () => {
  it('prints a script for each shell, and refuses others', async () => {
    for (const shell of ['bash', 'zsh', 'fish']) {
      const {stdout, exit} = await runCommand('completion', shell)
      expect(stdout).to.contain(`Completion of imgstore for ${shell}`)
      expect(exit).to.equal(0)
    }
    expect((await runCommand('completion', 'csh')).exit).to.equal(2)
  })

  it('knows every command, subcommand, flag and choice', async () => {
    const models = await loadModels()
    expect(models.map((model) => model.words.join(' '))).to.deep.equal(commandIds())
    expect(nextWords(models, ['runs']).map((next) => next.word)).to.deep.equal(['list', 'show'])
    const fetch = models.find((model) => model.words[0] === 'fetch')
    const names = fetch?.flags.flatMap((flag) => flag.names)
    expect(names).to.include.members([
      '--wait',
      '-w',
      '--no-activate',
      '--ca-file',
      '--store',
      '-q',
    ])
    const valueOf = (name: string) =>
      fetch?.flags.find((flag) => flag.names.includes(name))?.value?.kind
    expect(valueOf('--profile')).to.equal('choice')
    expect(valueOf('--ca-file')).to.equal('file')
    expect(valueOf('--max-files')).to.equal('other')
    expect(valueOf('--wait')).to.equal(undefined)
    // The name that fetch takes is a new one.
    expect(fetch?.args.map((arg) => arg.kind)).to.deep.equal(['other', 'other', 'other'])
    const status = models.find((model) => model.words[0] === 'status')
    expect(status?.args.map((arg) => arg.kind)).to.deep.equal(['image'])
  })
})

describe('completion in bash', () => {
  requires('program:bash')

  const ask = (words: string): string =>
    `COMP_WORDS=(${words}); COMP_CWORD=$((\${#COMP_WORDS[@]}-1)); COMPREPLY=(); _imgstore; echo "\${COMPREPLY[*]}"\n`

  it('offers commands, flags, choices, files and the images that are there', async () => {
    const questions = [
      `imgstore st`,
      `imgstore runs ''`,
      `imgstore status ''`,
      `imgstore status wo`,
      `imgstore fetch web --prof`,
      `imgstore fetch web --profile ''`,
      `imgstore fetch web --profile = i`,
      `imgstore retry --profile image we`,
      `imgstore fetch ''`,
      `imgstore status --store ./compl`,
      `imgstore run web -- ./compl`,
    ]
    const text = `source ./completion\n${questions.map(ask).join('')}`
    const answers = (await inShell('bash', text, bashScript('imgstore', await loadModels()))).split(
      '\n',
    )
    expect(answers.slice(0, -1)).to.deep.equal([
      'status',
      'list show',
      'web worker-1',
      'worker-1',
      '--profile',
      'strict image data',
      'image',
      'web',
      '',
      './completion',
      './completion',
    ])
  })

  it('offers the images of the store that is named on the line', async () => {
    const questions = [
      `imgstore status --store 'an\\ other/store' ''`,
      `imgstore status --store "'an other/store'" ''`,
      `imgstore status --store '"an other/store"' ''`,
      `imgstore status --store 'an\\ other/store' --db = 'an\\ other/store.db' f`,
      `imgstore status '--store=an\\ other/store' ''`,
      `imgstore status --store '~/an\\ other/store' ''`,
      // Where it would have to expand, or cannot know, it offers nothing, and runs nothing.
      `imgstore status --store '$(touch ran)' ''`,
      `imgstore status --store '"\`touch ran\`"' ''`,
      `imgstore status --store '$HOME/store' ''`,
      `imgstore status --store "'un" ''`,
      `imgstore status --store a : b ''`,
    ]
    const text = `source ./completion\n${questions.map(ask).join('')}[[ -e ran ]] && echo RAN\ntrue\n`
    const answers = await inShell('bash', text, bashScript('imgstore', await loadModels()))
    expect(answers.split('\n').slice(0, -1)).to.deep.equal([
      ...['far', 'far', 'far', 'far', 'far', 'far'],
      ...['', '', '', '', ''],
    ])
  })

  it('runs nothing that a name in a database says', async () => {
    const hostile = `imgstore() { echo 'web'; echo '$(touch ran)'; echo '\`touch ran\`'; }\n`
    const text = `source ./completion\n${hostile}${ask(`imgstore status ''`)}[[ -e ran ]] && echo RAN\n`
    const script = bashScript('imgstore', await loadModels())
    expect(await inShell('bash', `${text}true\n`, script)).to.equal('web\n')
  })
})

describe('completion in fish', () => {
  requires('program:fish')

  it('offers commands, flags, choices, files and the images that are there', async () => {
    const questions = ['st', 'runs ', 'status w', 'fetch --prof', 'fetch x --profile ']
    const text = `source ./completion\n${questions
      .map((words) => `complete -C 'imgstore ${words}' | string replace -r '\\t.*' ''; echo .\n`)
      .join('')}`
    const answers = await inShell('fish', text, fishScript('imgstore', await loadModels()))
    expect(answers.split('.\n').map((answer) => answer.trim().split('\n'))).to.deep.equal([
      ['status'],
      ['list', 'show'],
      ['web', 'worker-1'],
      ['--profile'],
      ['data', 'image', 'strict'],
      [''],
    ])
  })
})

describe('completion in fish of names', () => {
  requires('program:fish')

  it('goes by the store that is named on the line', async () => {
    const questions = [
      'status --store "an other/store" ',
      "status --store='an other/store' ",
      'status --store an\\ other/store f',
      'status --store ~/an\\ other/store --db ~/an\\ other/store.db ',
      'status --store "(touch ran)" ',
      'status --store (touch ran) ',
      'status --store $HOME/store ',
    ]
    const quoted = questions.map(
      (words) => `'${words.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`,
    )
    const text = `source ./completion\n${quoted
      .map((words) => `complete -C 'imgstore '${words} | string replace -r '\\t.*' ''; echo .\n`)
      .join('')}test -e ran; and echo RAN; true\n`
    const answers = await inShell('fish', text, fishScript('imgstore', await loadModels()))
    expect(answers.split('.\n').map((answer) => answer.trim())).to.deep.equal([
      ...['far', 'far', 'far', 'far'],
      ...['', '', '', ''],
    ])
  })
})

describe('completion in zsh', () => {
  requires('program:zsh')

  it('offers commands, flags, choices and the images that are there', async () => {
    // A terminal of its own for a second zsh, which sees the keys of a person. What is unique is completed on the
    // line, which then is printed. One key does both: a shell that sees more keys waiting does not complete.
    const questions = [
      ...['st', 'runs sh', 'status wor', 'fetch x --profile im', 'fetch --max-rat'],
      ...['status --store an\\\\ other/store f', 'status --store="an other/store" f'],
      ...['status --store ~/an\\\\ other/store f', 'status --store $(touch ran) w'],
    ]
    const text = `
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'PS1="READY> "; autoload -U compinit; compinit -u -D; source ./completion; unsetopt beep zle_bracketed_paste; show-line() { zle complete-word; BUFFER="print -r -- LINE \${(q)BUFFER}"; zle accept-line }; zle -N show-line; bindkey "^X" show-line; print LOADED'
zpty -r z out $'*LOADED\\r*READY> *'
${questions
  .map(
    (words) =>
      `zpty -n -w z $'imgstore ${words}\\C-x'\nzpty -r z out $'*\\nLINE *\\r*READY> *'\nprint -r -- "$out" | grep -ao '^LINE.*'\n`,
  )
  .join('')}
zpty -d z
[[ -e ran ]] || print nothing ran
`
    const answers = await inShell('zsh', text, zshScript('imgstore', await loadModels()))
    const completed = answers.replaceAll('\r', '').trimEnd().split('\n')
    expect(completed.map((line) => line.replace(/^LINE /, '').trimEnd())).to.deep.equal([
      'imgstore status',
      'imgstore runs show',
      'imgstore status worker-1',
      'imgstore fetch x --profile image',
      'imgstore fetch --max-ratio=',
      'imgstore status --store an\\ other/store far',
      'imgstore status --store="an other/store" far',
      'imgstore status --store ~/an\\ other/store far',
      'imgstore status --store $(touch ran) w',
      'nothing ran',
    ])
  })
})
