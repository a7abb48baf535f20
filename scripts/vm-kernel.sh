#!/usr/bin/env bash
# Gets the kernel of Debian trixie and makes a first file system for a virtual machine whose root is this host's own,
# shared read-only: nothing is installed. Prints nothing when it is done already.
#
#     scripts/vm-kernel.sh DIR     then DIR/vmlinuz and DIR/initrd
#
# The machine needs a disk (/dev/vda, mounted at /mnt) and on its command line imgstore_run=PROGRAM, which is run as
# root in this host's files. Needs apt, depmod, cpio and a static busybox.
set -euo pipefail
dir=${1:?usage: vm-kernel.sh DIR}
suite=trixie
modules='virtio_blk 9p 9pnet_virtio ext4 overlay erofs loop'
if [ -e "$dir/done" ]; then exit 0; fi
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

# The mirror that this host installs Debian from; its keyring signs every suite.
mirror=$( (cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true) |
  grep -oE '(https?|file)://[^ ]+/debian/?( |$)' | sed -n '1s/ *$//p' || true)
if [ -z "$mirror" ]; then echo 'vm-kernel.sh: this host has no apt source of Debian' >&2; exit 1; fi

# An apt of its own (lists, cache, status), so that the host's sources and packages stay as they are.
work=$(mktemp -d "$dir/apt.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/lists/partial "$work"/cache/archives/partial "$work"/root "$work"/initrd/{modules,bin,proc,sys,dev,root}
touch "$work/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > "$work/sources"
options=(-o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status"
  -o Dir::Cache="$work/cache" -o Dir::Etc::SourceList="$work/sources" -o Dir::Etc::SourceParts=-
  -o APT::Sandbox::User=root -o Debug::NoLocking=true)
apt-get -q -y "${options[@]}" update > /dev/null
package=$(apt-cache "${options[@]}" depends linux-image-amd64 | grep -oE 'linux-image-[0-9]\S*')
(cd "$work" && apt-get -q "${options[@]}" download "$package" > /dev/null)
dpkg-deb -x "$work/$package"_*.deb "$work/root"
kernel=${package#linux-image-}
if [ ! -e "$work/root/lib" ]; then ln -s usr/lib "$work/root/lib"; fi
depmod -b "$work/root" "$kernel"

# In the order in which they can be loaded, each once.
for module in $modules; do
  modprobe -d "$work/root" -S "$kernel" --show-depends "$module" | awk '$1 == "insmod" {print $2}'
done | awk '!seen[$0]++' > "$work/list"
while read -r path; do
  name=$(basename "$path" .xz)
  case "$path" in
    *.xz) xz -dc "$path" > "$work/initrd/modules/$name" ;;
    *) cp "$path" "$work/initrd/modules/$name" ;;
  esac
  echo "$name" >> "$work/initrd/modules/list"
done < "$work/list"

cp "$(command -v busybox)" "$work/initrd/bin/busybox"
cat > "$work/initrd/init" << 'END'
#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
while read -r module; do $b insmod /modules/$module; done < /modules/list
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=1048576,cache=loose host /root
for dir in proc sys dev; do $b mount --bind /$dir /root/$dir; done
$b mount -t tmpfs tmp /root/tmp
$b mount -t ext4 /dev/vda /root/mnt
$b chroot /root $($b sed -n 's/.*imgstore_run=\([^ ]*\).*/\1/p' /proc/cmdline)
$b umount /root/mnt
$b poweroff -f
END
chmod 755 "$work/initrd/init"
(cd "$work/initrd" && find . | cpio --quiet -o -H newc | gzip -1) > "$dir/initrd"
cp "$work/root/boot/vmlinuz-$kernel" "$dir/vmlinuz"
touch "$dir/done"
