#!/usr/bin/env bash
# Boots systemd as the first process of namespaces of its own, over a copy of this host's files that is gone with it:
#
#   systemd-scene.sh NAME DIR PROGRAM UNIT [INSIDE=OUTSIDE...]
#
# NAME: of the control group that everything runs in; whoever calls removes it afterwards. DIR: an empty directory to
# work in. PROGRAM: the checkout that becomes /opt/imgstore. UNIT: the unit file that is installed. INSIDE=OUTSIDE:
# files or directories of the host that stand elsewhere inside. The network is the host's.
set -euo pipefail

if [ "$1" != --inside ]; then
  # A group of its own under every controller first, or systemd would arrange the host's.
  for procs in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do
    group=${procs%/*}/$1
    if [ -w "$procs" ] && [ "${procs#*/cpuset}" = "$procs" ] && [ ! -L "${procs%/*}" ]; then
      if [ -e "${procs%/*}/cgroup.type" ]; then continue; fi # a group of a unified hierarchy, not a hierarchy
      mkdir -p "$group" && echo $$ > "$group/cgroup.procs"
    fi
  done
  exec unshare --mount --pid --ipc --uts --cgroup --fork --kill-child bash "$0" --inside "${@:2}"
fi

dir=$2 program=$3 unit=$4
shift 4
mount --make-rprivate /
mount -t tmpfs -o mode=755 scene "$dir"
mkdir "$dir"/{upper,work,root}
root=$dir/root
mount -t overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
  # systemd mounts the other hierarchies by itself.
  mount -t tmpfs -o mode=755 cgroup "$root/sys/fs/cgroup"
  mkdir "$root/sys/fs/cgroup/systemd"
  mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
fi
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 run "$root/run"

# A checkout may lie where only its owner may go; a mount of its own is reached from anywhere.
mkdir -p "$root/opt/imgstore"
mount --bind "$program" "$root/opt/imgstore"
ln -sfn /opt/imgstore/bin/imgstore "$root/usr/local/bin/imgstore"
for pair in "$@"; do
  inside=$root${pair%%=*} outside=${pair#*=}
  if [ -d "$outside" ]; then mkdir -p "$inside"; else mkdir -p "${inside%/*}" && : > "$inside"; fi
  mount --bind "$outside" "$inside"
done

# Of the host's own units none: only ours, started by name.
rm -rf "$root/etc/systemd/system"
mkdir -p "$root/etc/systemd/system"
cp "$unit" "$root/etc/systemd/system/"
# There is no journal; what the unit says is kept for who looks into a failure.
mkdir "$root/etc/systemd/system/${unit##*/}.d"
printf '[Service]\nStandardOutput=append:/run/scene.log\nStandardError=inherit\n' \
  > "$root/etc/systemd/system/${unit##*/}.d/scene.conf"
printf '[Unit]\nDefaultDependencies=no\n' > "$root/etc/systemd/system/scene.target"

cd "$root"
pivot_root . mnt
umount --lazy mnt
# As systemd does outside of containers: it hands credentials to a service by a mount that spreads.
mount --make-rshared /
exec env -i container=imgstore PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
  /lib/systemd/systemd --unit=scene.target --log-target=console --show-status=no
