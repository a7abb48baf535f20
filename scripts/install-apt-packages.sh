#!/usr/bin/env bash
# Installs the Debian packages of scripts/apt-packages.txt that are not there yet. Starts no service.
set -euo pipefail
cd "$(dirname "$0")"

missing=()
while read -r name _; do
  case $name in ''|'#'*) continue ;; esac
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
done < apt-packages.txt
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

# Debian's packages start their services when they are installed, unless this program forbids it.
policy=/usr/sbin/policy-rc.d
kept=
if [ -e "$policy" ]; then kept=$(mktemp "$policy.XXXXXX") && mv "$policy" "$kept"; fi
restore() {
  rm -f "$policy"
  if [ -n "$kept" ]; then mv "$kept" "$policy"; fi
}
trap restore EXIT
printf '#!/bin/sh\nexit 101\n' > "$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
echo "installing Debian packages: ${missing[*]}"
# Another apt may be at work (a new machine updates itself): wait for it rather than fail.
apt=(apt-get -q -o DPkg::Lock::Timeout=300)
"${apt[@]}" update > /dev/null
"${apt[@]}" install -y --no-install-recommends "${missing[@]}" > /dev/null
