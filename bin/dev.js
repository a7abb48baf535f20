#!/usr/bin/env node
// The program from its sources, without a build: `npm run dev -- status`.
import './check-node.js'

import('@oclif/core').then(({execute}) => execute({development: true, dir: import.meta.url}))
