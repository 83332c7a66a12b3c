"""What a user would run instead, from Debian, with a rule for each of N addresses: iptables, ufw and firewalld.

Each runs in the network namespace it is given and in a mount namespace of its own, where an overlay puts the unpacked
packages over /usr and /etc, and what they write goes to a tmpfs. Each permits TCP port 8080 from every address, one
address a rule, and drops the rest, as it is configured to do by its own means.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.debian import unpacked
from bench.sandbox import NetworkNamespace

PACKAGES = (
    *("iptables", "libip4tc2", "libip6tc2", "libmnl0", "libnetfilter-conntrack3", "libnfnetlink0", "libnftnl11"),
    *("libxtables12", "ufw", "dbus", "firewalld", "python3-firewall", "python3-nftables", "python3-dbus", "python3-gi"),
    *("gir1.2-glib-2.0", "gir1.2-nm-1.0", "libgirepository-1.0-1", "libnm0", "libnftables1", "libdbus-1-3"),
)
"""With what they need and a server need not have: what the machine has today it may lack tomorrow."""
_PORT = 8080
_START_SECONDS = 30.0
_READY = b"ready\n"

_MOUNTS = """
mount --make-rprivate /
mount -t overlay overlay -o lowerdir=$ROOT/usr:/usr /usr
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay overlay -o lowerdir=$ROOT/etc:/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
"""

_IPTABLES = """
iptables-nft-restore < $CONFIG/rules
iptables-nft --version
echo ready
"""

_UFW = """
cp /usr/share/ufw/*.rules /usr/share/ufw/*.init /etc/ufw/
sed -i "/^### RULES ###/r $CONFIG/rules" /etc/ufw/user.rules
sed 's/^ENABLED=.*/ENABLED=yes/' /usr/share/ufw/ufw.conf > /etc/ufw/ufw.conf
sed -i 's/^IPT_SYSCTL=.*/IPT_SYSCTL=/' /etc/default/ufw
/lib/ufw/ufw-init start
ufw --version | head -n 1
ufw status | grep -c '8080/tcp  *ALLOW'
echo ready
"""
"""IPT_SYSCTL empty: settings of the kernel that are not of the namespace stay as they are."""

_FIREWALLD = """
mkdir /run/dbus
sed -i 's/^DefaultZone=.*/DefaultZone=bench/' /etc/firewalld/firewalld.conf
mkdir -p /etc/firewalld/zones
cp $CONFIG/zone.xml /etc/firewalld/zones/bench.xml
dbus-daemon --config-file=$CONFIG/bus.conf --nofork --nopidfile >&2 &
bus=$!
firewalld --nofork --nopid >&2 &
daemon=$!
trap 'kill $daemon; wait $daemon; kill $bus' EXIT
until [ "$(firewall-cmd --state 2>&1)" = running ]; do
  kill -0 $daemon
  sleep 0.1
done
firewall-cmd --version
firewall-cmd --list-rich-rules | grep -c 'port="8080"'
echo ready
read -r line || true
"""

_BUS = """<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
"""


def iptables_rules(addresses: Sequence[IPv4Address]) -> str:
    """The input of iptables-nft-restore: what a careful administrator writes by hand."""
    rules = [f"-A INPUT -s {a}/32 -p tcp -m tcp --dport {_PORT} -j ACCEPT" for a in addresses]
    head = ["*filter", ":INPUT DROP [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"]
    state = ["-A INPUT -i lo -j ACCEPT", "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]
    return "\n".join([*head, *state, *rules, "COMMIT", ""])


def ufw_rules(addresses: Sequence[IPv4Address]) -> str:
    """What 1,000 times `ufw allow proto tcp from A to any port 8080` leaves in user.rules (it would take minutes)."""
    return "".join(
        f"\n### tuple ### allow tcp {_PORT} 0.0.0.0/0 any {a} in\n"
        f"-A ufw-user-input -p tcp --dport {_PORT} -s {a} -j ACCEPT\n"
        for a in addresses
    )


def firewalld_zone(addresses: Sequence[IPv4Address]) -> str:
    """A zone of rich rules, as `firewall-cmd --permanent --add-rich-rule` writes it."""
    rules = "".join(
        f'  <rule family="ipv4"><source address="{a}"/><port port="{_PORT}" protocol="tcp"/><accept/></rule>\n'
        for a in addresses
    )
    return f'<?xml version="1.0" encoding="utf-8"?>\n<zone target="DROP">\n{rules}</zone>\n'


@contextmanager
def iptables(namespace: NetworkNamespace, addresses: Sequence[IPv4Address]) -> Iterator[str]:
    with _running(namespace, _IPTABLES, {"rules": iptables_rules(addresses)}) as said:
        yield said[0]


@contextmanager
def ufw(namespace: NetworkNamespace, addresses: Sequence[IPv4Address]) -> Iterator[str]:
    with _running(namespace, _UFW, {"rules": ufw_rules(addresses)}) as said:
        _hold("ufw", said, len(addresses))
        yield said[0]


@contextmanager
def firewalld(namespace: NetworkNamespace, addresses: Sequence[IPv4Address]) -> Iterator[str]:
    """The daemon runs, on a bus of its own, as long as the context."""
    with _running(namespace, _FIREWALLD, {"zone.xml": firewalld_zone(addresses), "bus.conf": _BUS}) as said:
        _hold("firewalld", said, len(addresses))
        yield f"firewalld {said[0]}"


PEERS = {"firewalld": firewalld, "ufw": ufw, "iptables-nft": iptables}


def _hold(name: str, said: Sequence[str], rules: int) -> None:
    if said[1] != str(rules):
        raise RuntimeError(f"{name} says that it has {said[1]} of {rules} rules")


def packages() -> Path:
    """The packages, and the links that Debian's own scripts would make: its iptables is iptables-nft. RuntimeError when
    they cannot be had; the first call needs the network."""
    root = unpacked("peers", PACKAGES)
    for family in ("iptables", "ip6tables"):
        for program in (family, f"{family}-restore", f"{family}-save"):
            link = root / "usr" / "sbin" / program
            if not link.is_symlink():
                link.symlink_to("xtables-nft-multi")
    return root


@contextmanager
def _running(namespace: NetworkNamespace, script: str, files: dict[str, str]) -> Iterator[list[str]]:
    """Runs the script until it is ready; answers the lines it wrote. RuntimeError with its errors when it fails."""
    with TemporaryDirectory(prefix="segctl-bench-") as directory:
        for name, content in files.items():
            Path(directory, name).write_text(content)
        errors = Path(directory, "errors")
        variables = f"ROOT={packages()}\nCONFIG={directory}\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n"
        command = ["unshare", "--mount", "sh", "-euc", variables + _MOUNTS + script]
        with namespace.entered(), errors.open("w") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        try:
            yield _until_ready(process, errors)
        finally:
            _end(process)


def _until_ready(process: subprocess.Popen[bytes], errors: Path) -> list[str]:
    assert process.stdout is not None
    said = b""
    deadline = time.monotonic() + _START_SECONDS
    while not said.endswith(_READY):
        left = max(0.0, deadline - time.monotonic())
        part = os.read(process.stdout.fileno(), 4096) if select.select([process.stdout], [], [], left)[0] else b""
        if not part:
            raise RuntimeError(f"it did not start in {_START_SECONDS:g} s: {errors.read_text().strip()[-400:]}")
        said += part
    return said.decode().splitlines()


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
