"""Makes a fresh Debian into a host of the topology. Runs as root on that machine, from the folder that holds `lab`:
`python3 -m lab.vm.guest HOST`. Standard library only. May run again; it then changes what is no longer so.

Accounts, /etc/hosts, the IPv6 address beside the IPv4 one, the units, and segctl from the packages in `dist`; on the
controller's host the controller, with the administrator's client in /root/.config/segctl. A unit that the system
already has is left as it is; the others get a small server of the same name and port (lab/programs.py).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lab.accounts import ACCOUNTS, hosts_file
from lab.netns import SHOP
from lab.programs import __file__ as programs
from lab.topology import HostSpec, Topology, Unit, load_topology

SYSTEM = Path("/etc/systemd/system")
PACKAGES = Path(__file__).resolve().parents[2] / "dist"
CONTROLLER_STATE = Path("/var/lib/segctl-controller")
ADMIN = Path("/root/.config/segctl")
MARK = "# Written by segctl's lab."
PYTHON = "/usr/bin/python3"

ADDRESS = f"""{MARK}
[Unit]
Description=lab: the IPv6 address beside the IPv4 one
After=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
WorkingDirectory={Path(programs).parent.parent}
ExecStart={PYTHON} -m lab.vm.guest --address {{v4}} {{v6}}/{{prefix}}
[Install]
WantedBy=multi-user.target
"""
SLOW = f"""{MARK} The processor of this machine is emulated.
[Service]
TimeoutStartSec=600
WatchdogSec=300
"""
SERVICE = f"""{MARK}
[Unit]
Description=lab: {{name}}
After=network.target
[Service]
Type=notify
ExecStart={PYTHON} -I -S {programs} {{arguments}}
User={{user}}
AmbientCapabilities=CAP_NET_BIND_SERVICE
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""


def main() -> None:
    match sys.argv[1:]:
        case ["--address", v4, v6]:
            add_address(v4, v6)
        case [name]:
            topology = load_topology(SHOP)
            prepare(topology.host(name), topology)
            install(topology.host(name), topology)
        case _:
            raise SystemExit(__doc__)


def prepare(host: HostSpec, topology: Topology) -> None:
    for user, _ in ACCOUNTS:
        if not user.startswith("segctl"):  # theirs come with the packages
            make_account(user)
    Path("/etc/hosts").write_text(f"{MARK}\n{hosts_file(topology)}")
    address = SYSTEM / "lab-address.service"
    address.write_text(ADDRESS.format(v4=host.v4, v6=host.v6, prefix=topology.prefix_v6))
    give_time()
    wanted = [unit for unit in host.units if "/" not in unit.name and write_unit(unit)]
    run("systemctl", "daemon-reload")
    names = [address.name, *(unit.name for unit in wanted)]
    run("systemctl", "enable", "--quiet", *names)
    run("systemctl", "restart", *names)


def give_time() -> None:
    """systemd calls a processor that is emulated, not virtual, "qemu"."""
    found = subprocess.run(["systemd-detect-virt"], capture_output=True, text=True, check=False).stdout.strip()
    if found == "qemu":
        for unit in ("segctl-agent-boot", "segctl-agent", "segctl-controller"):
            path = SYSTEM / f"{unit}.service.d" / "lab.conf"
            path.parent.mkdir(exist_ok=True)
            path.write_text(SLOW)


def packages(host: HostSpec, topology: Topology) -> tuple[str, ...]:
    """The packages of segctl that the host needs."""
    if host.name == topology.controller:
        return ("segctl-controller", "segctl")
    return ("segctl-agent",) if host.managed else ()


def install(host: HostSpec, topology: Topology) -> None:
    wanted = packages(host, topology)
    if wanted:
        files = [str(path) for name in wanted for path in PACKAGES.glob(f"{name}_*.deb")]
        if len(files) != len(wanted):
            raise SystemExit(f"{PACKAGES} must have one package each of {', '.join(wanted)}: run `make deb` again")
        quiet = ["-qq", "-y", "--no-install-recommends", "--allow-downgrades"]
        run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", *quiet, *files)
    if host.name == topology.controller and not ADMIN.exists():
        init_controller(host)


def init_controller(host: HostSpec) -> None:
    unit = "segctl-controller.service"
    show = ["systemctl", "show", "--property=User", "--value", unit]
    user = subprocess.run(show, capture_output=True, text=True, check=True).stdout.strip()
    names = [word for name in (host.name, str(host.v4), str(host.v6)) for word in ("--name", name)]
    made = CONTROLLER_STATE / "alice"
    command = ["segctl-controller", "init", "--state", str(CONTROLLER_STATE), "--listen", "::", *names]
    run("runuser", "-u", user, "--", *command, "--admin", "alice", "--admin-out", str(made))
    run("systemctl", "enable", "--quiet", "--now", unit)
    ADMIN.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    run("cp", "-r", "--no-preserve=ownership", str(made), str(ADMIN))
    run("rm", "-r", str(made))


def make_account(user: str) -> None:
    if run("getent", "passwd", user, check=False) != 0:
        run("useradd", "--create-home", "--shell", "/bin/sh", user)


def write_unit(unit: Unit) -> bool:
    """Write the unit's file unless the system brings one of that name. True when the unit is ours."""
    path = SYSTEM / unit.name
    if not path.exists() and run("systemctl", "cat", unit.name, check=False) == 0:
        return False
    arguments = "idle" if unit.kind == "idle" else f'serve {unit.port} --banner "{unit.banner}"'
    if unit.backend:
        arguments += f" --backend {unit.backend}"
    path.write_text(SERVICE.format(name=unit.name, arguments=arguments, user=unit.user))
    return True


def add_address(v4: str, v6: str) -> None:
    """Give the interface that has the address `v4` also `v6`. Raises SystemExit when none has it."""
    lines = subprocess.run(["ip", "-brief", "-4", "address"], capture_output=True, text=True, check=True).stdout
    found = [line.split()[0] for line in lines.splitlines() if any(w.startswith(f"{v4}/") for w in line.split())]
    if not found:
        raise SystemExit(f"no interface has {v4}; there are:\n{lines}")
    run("ip", "address", "replace", v6, "dev", found[0], "nodad")


def run(*command: str, check: bool = True) -> int:
    quiet = None if check else subprocess.DEVNULL
    return subprocess.run(command, check=check, stdout=quiet, stderr=quiet).returncode


if __name__ == "__main__":
    main()
