#!/bin/bash
# Becomes systemd, as the first process of a machine of its own: `unshare` has made its namespaces, $1 is an empty
# directory. What it writes to /etc, /opt, /run and /var is gone with it. It shares the network, and the kernel, in which
# it changes nothing.
set -euo pipefail
directory=$1

mount --make-rprivate /
umount --recursive /sys/fs/cgroup
# The root of this namespace's hierarchy is the group that its first process was put into.
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs tmpfs /run
mkdir /run/lock
for name in etc opt var; do
    mkdir "$directory/$name" "$directory/$name.work"
    mount -t overlay overlay -o "lowerdir=/$name,upperdir=$directory/$name,workdir=$directory/$name.work" "/$name"
done

# The targets that every service is ordered after, and the journal; nothing that touches the hardware or the kernel.
units=/etc/systemd/system
mount -t tmpfs tmpfs $units
cd /lib/systemd/system
cp multi-user.target basic.target sysinit.target network.target network-online.target shutdown.target \
    systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket $units
mkdir $units/sysinit.target.wants
ln -s ../systemd-journald.service $units/sysinit.target.wants
cd /
# As systemd does it outside of containers: credentials come by mounts that have to get from one namespace to another.
mount --make-rshared /
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=test \
    SYSTEMD_UNIT_PATH=$units SYSTEMD_GENERATOR_PATH=/nowhere \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=journal
