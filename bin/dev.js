#!/usr/bin/env node
// The program from its sources, without a build: `npm run dev -- status`.
import './check-node.js'
import {fileURLToPath} from 'url'

const root = fileURLToPath(new URL('..', import.meta.url))
// The manifest tells of built commands.
const loadOptions = {root, ignoreManifest: true}
import('@oclif/core/execute').then(({execute}) => execute({development: true, loadOptions}))
