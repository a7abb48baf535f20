#!/usr/bin/env bash
# Unpacks erofs-utils 1.8 (mkfs.erofs, fsck.erofs, dump.erofs) of Debian trixie into a directory, without
# installing anything: older Debians carry 1.5, which knows no index of a tar. Prints nothing when it is done already.
#
#     scripts/erofs-tools.sh DIR     then DIR/fsck.erofs, DIR/dump.erofs, DIR/mkfs.erofs
set -euo pipefail
dir=${1:?usage: erofs-tools.sh DIR}
suite=trixie
tools='mkfs.erofs fsck.erofs dump.erofs'
if [ -e "$dir/done" ]; then exit 0; fi
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

# The mirror that this host installs Debian from; its keyring signs every suite.
mirror=$( (cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true) |
  grep -oE '(https?|file)://[^ ]+/debian/?( |$)' | sed -n '1s/ *$//p' || true)
if [ -z "$mirror" ]; then echo 'erofs-tools.sh: this host has no apt source of Debian' >&2; exit 1; fi

# An apt of its own (lists, cache, status), so that the host's sources and packages stay as they are.
work=$(mktemp -d "$dir/apt.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/lists/partial "$work"/cache/archives/partial "$work"/root
touch "$work/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$work/sources"
apt=(apt-get -q -y -o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status"
  -o Dir::Cache="$work/cache" -o Dir::Etc::SourceList="$work/sources" -o Dir::Etc::SourceParts=-
  -o APT::Install-Recommends=false -o APT::Sandbox::User=root -o Debug::NoLocking=true)
"${apt[@]}" update > /dev/null
"${apt[@]}" --download-only install erofs-utils > /dev/null
for package in "$work"/cache/archives/*.deb; do dpkg-deb -x "$package" "$work/root"; done
rm -rf "$dir/root"
mv "$work/root" "$dir/root"

# Each tool runs with the libraries it was built for, by their own loader.
loader=$(cd "$dir" && find root -name 'ld-linux*.so*' | head -n 1)
libraries=$(cd "$dir" && find root -name '*.so*' -printf '%h\n' | sort -u | sed 's,^,$here/,' | paste -sd:)
for tool in $tools; do
  program=$(cd "$dir" && find root -name "$tool" -type f | head -n 1)
  printf '#!/bin/sh\nhere=$(cd "$(dirname "$0")" && pwd)\nexec "$here/%s" --library-path "%s" "$here/%s" "$@"\n' \
    "$loader" "$libraries" "$program" > "$dir/$tool"
  chmod 755 "$dir/$tool"
done
touch "$dir/done"
