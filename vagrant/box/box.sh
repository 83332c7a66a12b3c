#!/bin/bash
# A Vagrant box for libvirt from the image "lab", made without a network service: metadata, settings and disk in one tar.
# Usage (root): box.sh      makes $SEGCTL_VM/segctl-lab.box; add it with `vagrant box add --name segctl/lab FILE`
set -euo pipefail
. "$(dirname "$0")/settings.sh"
NEEDED=qemu-utils

need qemu-img
disk=$SEGCTL_VM/lab/disk.raw
[ -e "$disk" ] || die "no image: make it with $(dirname "$0")/image.sh lab"
tree=$(mktemp -d "$SEGCTL_VM/box.XXXXXX")
trap 'rm -rf "$tree"' EXIT
qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd "$disk" "$tree/box.img"
size=$(($(stat -c %s "$disk") >> 30))
echo "{\"provider\": \"libvirt\", \"format\": \"qcow2\", \"virtual_size\": $size}" >"$tree/metadata.json"
echo 'Vagrant.configure("2") { |config| config.vm.provider(:libvirt) { |libvirt| libvirt.disk_bus = "virtio" } }' >"$tree/Vagrantfile"
tar -C "$tree" -cf "$SEGCTL_VM/segctl-lab.box" metadata.json Vagrantfile box.img
said "$SEGCTL_VM/segctl-lab.box ($(du -h "$SEGCTL_VM/segctl-lab.box" | cut -f1))"
