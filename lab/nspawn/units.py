"""The units of a machine, from the topology: the distribution's own services, a Python API, and sockets of systemd."""

from __future__ import annotations

import shlex
from pathlib import Path

from lab.nspawn.layers import enable, write
from lab.topology import INTERNET, HostSpec, Topology, Unit

SYSTEM = Path("etc/systemd/system")
PROGRAM = "/usr/bin/python3 -I -S /opt/lab/programs.py"
API = "/usr/bin/python3 -I /opt/lab/http_api.py"
OF_PACKAGES = {
    "cron.service": "cron.service",
    "nginx.service": "nginx.service",
    "prometheus-node-exporter.service": "prometheus-node-exporter.service",
    "ssh.service": "ssh.service",
    # Its instances come from a generator (postgresql-common).
    "postgresql@15-main.service": "postgresql.service",
}
"""Units that a Debian package brings, and what enables them."""
API_UNITS = ("shop-api.service",)

NETWORK = """[Match]
Name=host0
[Link]
RequiredForOnline=no
[Network]
LinkLocalAddressing=ipv6
IPv6AcceptRA=no
LLMNR=no
LLDP=no
DHCP=no
[Address]
Address={v4}/{prefix_v4}
[Address]
Address={v6}/{prefix_v6}
DuplicateAddressDetection=none
"""

STRANGERS = """[Route]
Destination={network}
{how}
"""

NGINX = """user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;
events {{ }}
http {{
  access_log off;
  proxy_connect_timeout 3s;
  server {{
    listen {port};
    listen [::]:{port};
    location = / {{ return 200 "{banner}\\n"; }}
    location ~ ^/to/(?<there>[^/]+)$ {{ proxy_pass http://$there/; }}  # as whoever broke into it would
    {backend}
  }}
}}
"""

SERVICE = """[Unit]
Description=lab: {name}
After=network.target
[Service]
Type={type}
ExecStart={command}
User={user}
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""

TASK = """[Unit]
Description=lab: {name}
[Service]
Type=oneshot
ExecStart={command}
User={user}
"""

TIMER = """[Unit]
Description=lab: {name}
[Timer]
OnActiveSec={every}
OnUnitActiveSec={every}
AccuracySec=100ms
[Install]
WantedBy=timers.target
"""

SOCKET = """[Unit]
Description=lab: {name}
[Socket]
ListenStream={port}
BindIPv6Only=both
"""

SCHEMA = """[Unit]
Description=lab: the shop's database
After=postgresql@15-main.service
BindsTo=postgresql@15-main.service
[Service]
Type=oneshot
RemainAfterExit=yes
User=postgres
ExecStart=/bin/sh /opt/lab/schema.sh
"""


def write_machine(layer: Path, host: HostSpec, topology: Topology) -> None:
    """What only this machine has, into its upper layer."""
    write(layer / "etc/hostname", f"{host.name}\n")
    addresses = NETWORK.format(v4=host.v4, v6=host.v6, prefix_v4=topology.prefix_v4, prefix_v6=topology.prefix_v6)
    how = "Type=local" if host.name == topology.internet else "Scope=link"
    strangers = [STRANGERS.format(network=network, how=how) for network in INTERNET if topology.internet]
    write(layer / "etc/systemd/network/10-lab.network", "".join([addresses, *strangers]))
    if not any(unit.name == "ssh.service" for unit in host.units):
        enable(layer, "ssh.service")  # every server has one
    for unit in host.units:
        write_unit(layer, unit)


def write_unit(layer: Path, unit: Unit) -> None:
    """A scope is nothing that could be written: it comes with a login."""
    if unit.name in OF_PACKAGES:
        enable(layer, OF_PACKAGES[unit.name])
        _configure(layer, unit)
    elif "/" not in unit.name:
        _write_own(layer, unit)


def _configure(layer: Path, unit: Unit) -> None:
    if unit.name == "nginx.service":
        backend = f"location /api/ {{ proxy_pass http://{unit.backend}/; }}" if unit.backend else ""
        text = NGINX.format(port=unit.port, banner=unit.banner, backend=backend)
        write(layer / "etc/nginx/nginx.conf", text)
    elif unit.name == "postgresql@15-main.service":
        write(layer / SYSTEM / "shop-schema.service", SCHEMA)
        enable(layer, "shop-schema.service", directory="/etc/systemd/system")
    elif unit.name == "cron.service" and unit.command:
        write(layer / "etc/cron.d/lab", f"{unit.command}\n")


def _write_own(layer: Path, unit: Unit) -> None:
    serves = unit.kind == "serve"
    text = (TASK if unit.kind == "task" else SERVICE).format(
        name=unit.name,
        type="notify" if serves else "simple",
        command=server_command(unit) if serves else unit.command or "/bin/sleep infinity",
        user=unit.user,
    )
    write(layer / SYSTEM / unit.name, text)
    if unit.kind == "task":
        _write_timer(layer, unit)
        return
    if not unit.socket:
        enable(layer, unit.name, directory="/etc/systemd/system")
        return
    name = f"{unit.name.removesuffix('.service')}.socket"
    write(layer / SYSTEM / name, SOCKET.format(name=name, port=unit.port))
    enable(layer, name, "sockets.target", "/etc/systemd/system")


def _write_timer(layer: Path, unit: Unit) -> None:
    """A task without a time is started by whoever wants it."""
    if unit.every:
        name = f"{unit.name.removesuffix('.service')}.timer"
        write(layer / SYSTEM / name, TIMER.format(name=name, every=unit.every))
        enable(layer, name, "timers.target", "/etc/systemd/system")


def server_command(unit: Unit) -> str:
    """The command line of a server of ours; with a socket of systemd's it needs no port."""
    given = (("--banner", unit.banner), ("--backend", unit.backend))
    options = [word for name, value in given if value for word in (name, value)]
    if unit.socket:
        return f"{API} {shlex.join(options)}"
    if unit.name in API_UNITS:
        return f"{API} {shlex.join(['--port', str(unit.port), *options])}"
    return f"{PROGRAM} {shlex.join(['serve', str(unit.port), *options])}"
