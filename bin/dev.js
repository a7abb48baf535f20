#!/usr/bin/env node
// The program from its sources, without a build: `npm run dev -- status`.
require('./check-node.js')
require('./guard-output.js')

// The manifest tells of built commands.
const loadOptions = {root: require('path').resolve(__dirname, '..'), ignoreManifest: true}
require('@oclif/core/execute').execute({development: true, loadOptions})
