#!/bin/sh
# Makes malicious-*.tar in the current directory: hostile archives to try imgstore on.
# A program writes their bytes; nothing here touches any other file, whoever runs it.
exec node "$(dirname -- "$(readlink -f -- "$0")")/malicious-tar.mjs" "$@"
