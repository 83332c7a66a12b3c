#!/bin/bash
# A bootable Debian disk from the base tarball, with Debian's own kernel, without loop devices or mounts outside of this script.
# Usage (root): image.sh NAME [PACKAGE...]      makes $SEGCTL_VM/NAME/{disk.raw,vmlinux,vmlinuz,initrd}
set -euo pipefail
. "$(dirname "$0")/settings.sh"
NEEDED="debootstrap zstd e2fsprogs lz4 openssh-client python3"
SIZE=${SIZE:-6G}

[ $# -ge 1 ] || die "Usage: image.sh NAME [PACKAGE...]"
[ "$(id -u)" = 0 ] || die "chroot and mount need root"
need debootstrap zstd mke2fs lz4 ssh-keygen python3
"$(dirname "$0")/base.sh"
image=$SEGCTL_VM/$1 root=$SEGCTL_VM/$1/root
shift
rm -rf "$image"
mkdir -p "$root" "$SEGCTL_VM/debs/partial" "$SEGCTL_VM/log"
tar --zstd -C "$root" --numeric-owner --xattrs --acls -xpf "$BASE"
said untarred

# The kernel and what else was asked for. In a mount namespace of its own: whatever happens, no mount stays.
printf 'deb %s %s main\ndeb %s %s-security main\n' "$MIRROR" "$SUITE" "$SECURITY" "$SUITE" >"$root/etc/apt/sources.list"
cp /etc/resolv.conf "$root/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"    # installing starts nothing
chmod +x "$root/usr/sbin/policy-rc.d"
cat >"$root/install.sh" <<'I'
set -eu
export DEBIAN_FRONTEND=noninteractive
kernel=$1; shift
install() { apt-get install -y -qq --no-install-recommends -o APT::Keep-Downloaded-Packages=1 "$@"; }
apt-get update -qq
install initramfs-tools zstd "$@"
sed -i 's/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=zstd/' /etc/initramfs-tools/initramfs.conf
printf '%s\n' virtio_pci virtio_blk virtio_scsi virtio_net ext4 crc32c_generic ata_piix ahci sd_mod >/etc/initramfs-tools/modules
install "$kernel" grub-pc-bin grub2-common
I
export root debs=$SEGCTL_VM/debs
unshare --mount --propagation private sh -ec '
  mount --bind /dev "$root/dev"; mount -t proc proc "$root/proc"; mount -t sysfs sys "$root/sys"
  mount --bind "$debs" "$root/var/cache/apt/archives"
  exec chroot "$root" sh /install.sh "$@"' install "$KERNEL" "$@" >"$SEGCTL_VM/log/$(basename "$image")-apt.log" 2>&1 </dev/null ||
  die "apt failed: see $SEGCTL_VM/log/$(basename "$image")-apt.log"
rm -rf "$root/install.sh" "$root/usr/sbin/policy-rc.d" "$root"/var/lib/apt/lists/*
said "installed $KERNEL"

# A machine as Vagrant expects it (developer.hashicorp.com/vagrant/docs/boxes/base): user vagrant, its well-known key, sudo.
chroot "$root" useradd --create-home --shell /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
chmod 440 "$root/etc/sudoers.d/vagrant"
key=$SEGCTL_VM/id_ed25519
[ -e "$key" ] || ssh-keygen -q -t ed25519 -N '' -C segctl-lab -f "$key"
install -d -m 700 "$root/root/.ssh" "$root/home/vagrant/.ssh"
install -m 600 "$key.pub" "$root/root/.ssh/authorized_keys"
cat "$(dirname "$0")/vagrant.pub" >"$root/home/vagrant/.ssh/authorized_keys"
chroot "$root" chown -R vagrant: /home/vagrant/.ssh
ssh-keygen -q -t ed25519 -N '' -f "$root/etc/ssh/ssh_host_ed25519_key"
echo 'UseDNS no' >"$root/etc/ssh/sshd_config.d/lab.conf"

# DHCP on the first interface only, unless the kernel's command line says something else; the lab's own come later.
cat >"$root/etc/systemd/network/90-first.network" <<'N'
[Match]
Name=eth0
[Network]
DHCP=ipv4
[DHCPv4]
ClientIdentifier=mac
N
mkdir -p "$root/etc/systemd/system/sysinit.target.wants"
ln -sf /lib/systemd/system/systemd-networkd.service "$root/etc/systemd/system/multi-user.target.wants/"
ln -sf /lib/systemd/system/systemd-network-generator.service "$root/etc/systemd/system/sysinit.target.wants/"
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
echo 'LABEL=root / ext4 rw,noatime 0 1' >"$root/etc/fstab"
echo debian12 >"$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
: >"$root/etc/resolv.conf"

version=$(basename "$root"/boot/vmlinuz-*)
version=${version#vmlinuz-}
mkdir -p "$root/boot/grub"
cat >"$root/boot/grub/grub.cfg" <<G
serial --unit=0 --speed=115200
terminal_output serial console
set timeout=0
search --no-floppy --label root --set=root
linux /boot/vmlinuz-$version root=LABEL=root rw console=tty0 console=ttyS0 net.ifnames=0 quiet
initrd /boot/initrd.img-$version
boot
G
cp "$root"/boot/vmlinuz-* "$image/vmlinuz"
cp "$root"/boot/initrd.img-* "$image/initrd"
python3 "$(dirname "$0")/disk.py" vmlinux "$image/vmlinuz" "$image/vmlinux"
chroot "$root" grub-mkimage -d /usr/lib/grub/i386-pc -O i386-pc -p '(hd0,msdos1)/boot/grub' -o /boot/grub/core.img \
  biosdisk part_msdos ext2 normal linux search search_label serial terminal configfile boot test echo minicmd

truncate -s "$SIZE" "$image/disk.raw"
mke2fs -q -t ext4 -L root -E offset=1048576,lazy_itable_init=1,nodiscard -d "$root" "$image/disk.raw" \
  $((($(numfmt --from=iec "$SIZE") - 1048576) / 1024))k
python3 "$(dirname "$0")/disk.py" boot "$root/usr/lib/grub/i386-pc/boot.img" "$root/boot/grub/core.img" "$image/disk.raw"
rm -rf "$root"
said "$image/disk.raw ($(du -h "$image/disk.raw" | cut -f1), Linux $version)"
