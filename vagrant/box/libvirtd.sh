#!/bin/bash
# A libvirtd for a machine without systemd, or whose own is to be left alone: in namespaces, with every directory of its own.
# libvirtd.sh up           start it
# libvirtd.sh run CMD...   run vagrant, virsh or ssh in there
# libvirtd.sh down         destroy its machines and networks, and end it
set -euo pipefail
. "$(dirname "$0")/settings.sh"
NEEDED="libvirt-daemon-system libvirt-clients vagrant vagrant-libvirt qemu-system-x86 qemu-utils dnsmasq-base"
home=$SEGCTL_VM/libvirt
pid_file=$home/pid
export LIBVIRT_DEFAULT_URI=qemu:///system

alive() { [ -e "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null; }
enter() { nsenter --target "$(cat "$pid_file")" --mount --net --wd="$PWD" -- "$@"; }

case "${1:-}" in
up)
  alive && exit 0
  [ "$(id -u)" = 0 ] || die "namespaces need root"
  need libvirtd virsh qemu-system-x86_64
  rm -rf "$home"
  mkdir -p "$home"/{etc,run,lib/images,lib/qemu,lib/dnsmasq,cache,log}
  cp -a /etc/libvirt/. "$home/etc/"
  rm -f "$home"/etc/qemu/networks/autostart/*    # vagrant-libvirt makes its own
  cat >"$home/etc/qemu.conf" <<Q
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
remember_owner = 0
dynamic_ownership = 0
Q
  cat >"$home/start" <<I
set -e
ip link set lo up
mkdir -p /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt
mount --bind $home/etc /etc/libvirt
mount --bind $home/run /run/libvirt
mount --bind $home/lib /var/lib/libvirt
mount --bind $home/cache /var/cache/libvirt
mount --bind $home/log /var/log/libvirt
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo \$\$ >$pid_file
exec libvirtd
I
  setsid unshare --net --mount --propagation private sh "$home/start" </dev/null >"$home/log/out" 2>&1 &
  for _ in $(seq 100); do [ -S "$home/run/libvirt-sock" ] && break; sleep 0.2; done
  [ -S "$home/run/libvirt-sock" ] || die "libvirtd does not start: see $home/log/out"
  enter virsh -q pool-define-as default dir --target /var/lib/libvirt/images >/dev/null
  enter virsh -q pool-start default >/dev/null
  enter virsh version --daemon | tail -1
  ;;
run)
  shift
  alive || die "it does not run: libvirtd.sh up"
  enter "$@"
  ;;
down)
  alive || exit 0
  for machine in $(enter virsh list --name); do enter virsh -q destroy "$machine"; done
  for network in $(enter virsh net-list --name); do enter virsh -q net-destroy "$network"; done
  kill "$(cat "$pid_file")"
  while alive; do sleep 0.1; done
  rm -f "$pid_file"
  ;;
*)
  sed -n 2,5p "$0"
  exit 2
  ;;
esac
