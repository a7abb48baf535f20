#!/bin/sh
# Makes test-image.tar in the current directory: a root filesystem of three files that every profile accepts.
# Prints its SHA-256, ready for `imgstore fetch NAME URL CHECKSUM`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/rootfs
mkdir -p "$root/bin" "$root/etc" "$root/tmp"
printf '#!/bin/sh\necho "Hello from container!"\n' > "$root/bin/hello"
chmod 755 "$root/bin/hello"
echo 'test:x:1000:1000:test:/:/bin/sh' > "$root/etc/passwd"
echo 'NAME="imgstore test image"' > "$root/etc/os-release"
# The same bytes wherever and whenever it is made, so that its checksum can be written down.
tar --create --file test-image.tar --directory "$root" --sort=name --format=ustar \
  --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=u+rwX,go+rX,go-w .
sha256sum test-image.tar | cut -d ' ' -f 1
