#!/bin/sh
# The firewalls and container engine of other people that tests/netns/test_coexistence.py runs beside segctl. What this
# machine lacks of them is unpacked below build/neighbours and installed nowhere: installing a firewall starts it.
# Quick when there is nothing to do. Usage: tools/neighbours.sh
set -eu
cd "$(dirname "$0")/.."

packages="firewalld fail2ban docker.io iptables dbus"
folder=build/neighbours
if [ -f "$folder/.complete" ] && [ "$(cat "$folder/.complete")" = "$packages" ]; then
  exit 0
fi
# shellcheck disable=SC2086  # a list of words
simulate() { apt-get -s install --no-install-recommends $packages 2>/dev/null </dev/null; }
plan=$(simulate) || { apt-get update -qq </dev/null && plan=$(simulate); } || {
  echo "neighbours: apt knows no $packages: these tests need Debian 12" >&2
  exit 1
}
wanted=$(echo "$plan" | awk '/^Inst /{print $2}' | sort | tr '\n' ' ')
rm -rf "$folder"
mkdir -p "$folder/debs" "$folder/root/usr/bin" "$folder/root/usr/sbin" "$folder/root/usr/lib" "$folder/root/etc"
for name in bin sbin lib; do ln -s "usr/$name" "$folder/root/$name"; done
if [ -n "$wanted" ]; then
  echo "neighbours: unpacking $wanted"
  # shellcheck disable=SC2086  # a list of words
  (cd "$folder/debs" && apt-get download -qq -o APT::Sandbox::User=root $wanted </dev/null >/dev/null)
  for deb in "$folder"/debs/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$folder/root"
  done
fi
rm -r "$folder/debs"
printf '%s' "$packages" >"$folder/.complete"
