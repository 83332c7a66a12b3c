#!/bin/bash
# A minimal Debian root as a tarball, the seed of every machine image. Does nothing when it is there; --fresh makes it anew.
# Usage (root): base.sh [--fresh]
set -euo pipefail
. "$(dirname "$0")/settings.sh"
NEEDED="debootstrap zstd"
PACKAGES=systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,sudo,nftables,libnftables1,python3,iproute2,iputils-ping,procps,ca-certificates,netbase,conntrack,kmod,udev,rsync

need debootstrap zstd
[ "$(id -u)" = 0 ] || die "debootstrap needs root"
[ "${1:-}" = --fresh ] && rm -f "$BASE"
[ -e "$BASE" ] && { said "$BASE is there"; exit; }

mkdir -p "$SEGCTL_VM/debs" "$SEGCTL_VM/log"
tree=$(mktemp -d "$SEGCTL_VM/base.XXXXXX")
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
debootstrap --variant=minbase --cache-dir="$SEGCTL_VM/debs" --include="$PACKAGES" "$SUITE" "$tree" "$MIRROR" \
  >"$SEGCTL_VM/log/debootstrap.log" 2>&1 || die "debootstrap failed: see $SEGCTL_VM/log/debootstrap.log"
said debootstrap

# What must differ from machine to machine is made when it first starts.
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* "$tree"/etc/ssh/ssh_host_*
: >"$tree/etc/machine-id"
tar --zstd -C "$tree" --numeric-owner --xattrs --acls -cf "$BASE.part" .
mv "$BASE.part" "$BASE"
said "$BASE ($(du -h "$BASE" | cut -f1))"
