# Read by the scripts beside it. Everything they make is below SEGCTL_VM, some 5 GB; remove it to begin anew.
SEGCTL_VM=${SEGCTL_VM:-/var/tmp/segctl-vm}
SUITE=${SUITE:-bookworm}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
SECURITY=${SECURITY:-http://deb.debian.org/debian-security}
KERNEL=${KERNEL:-linux-image-amd64}
BASE=$SEGCTL_VM/base-$SUITE.tar.zst

started=$(date +%s)
said() { echo "$(basename "$0"): $1 after $(($(date +%s) - started)) s"; }
die() { echo "$(basename "$0"): $1" >&2; exit 1; }
need() { for program; do command -v "$program" >/dev/null || die "$program not found: apt-get install $NEEDED"; done; }
