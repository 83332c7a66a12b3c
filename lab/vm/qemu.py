"""Virtual machines without libvirt: one QEMU for each host of the topology, on a bridge in a namespace of its own.

They are made from the image that `vagrant/box/image.sh lab` makes, and end with the process that raised them, as does
their bridge.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.fleet import parallel
from lab.host import LabHost
from lab.instance import Instance, LabError
from lab.netns import SWITCH
from lab.signals import undisturbed
from lab.topology import HostSpec, Topology
from lab.vm.fleet import MachineDriver
from lab.vm.remote import ONE_CONNECTION, RemoteHost
from lab.wait import until

STORE = Path(os.environ.get("SEGCTL_VM", "/var/tmp/segctl-vm"))
KEY = STORE / "id_ed25519"
TCG_SLOWDOWN = 6.0
KERNEL_OPTIONS = (
    "root=LABEL=root rw console=ttyS0 net.ifnames=0 quiet mitigations=off nokaslr no_timer_check audit=0"
    " random.trust_cpu=on"
)
"""Some only save a machine without KVM seconds; what they leave out protects nobody here."""


def kvm_works() -> bool:
    """Whether this machine's KVM runs a kernel that was not made for it: kvm_pvm does not."""
    if os.environ.get("SEGCTL_VM_ACCEL") == "tcg" or not os.access("/dev/kvm", os.W_OK):
        return False
    return any(Path(f"/sys/module/kvm_{vendor}").is_dir() for vendor in ("intel", "amd"))


@dataclass(frozen=True, slots=True)
class Image:
    """What `vagrant/box/image.sh NAME` made."""

    name: str

    @property
    def directory(self) -> Path:
        return STORE / self.name

    def check(self) -> None:
        """Raises LabError when something is missing that machines of this image need."""
        missing = [name for name in ("qemu-system-x86_64", "qemu-img", "ssh") if shutil.which(name) is None]
        if missing:
            packages = "qemu-system-x86 qemu-utils openssh-client"
            raise LabError(f"{', '.join(missing)} not found: apt-get install --no-install-recommends {packages}")
        if not (self.directory / "disk.raw").exists() or not KEY.exists():
            raise LabError(f"no image in {self.directory}: make it with vagrant/box/image.sh {self.name}")

    def argv(
        self, kvm: bool, directory: Path, options: str, network: str, memory: int, disks: tuple[Path, ...] = ()
    ) -> list[str]:
        """The command line of one machine with `memory` MiB. `directory` gets its overlay disk, console and monitor;
        `network` is the value of -netdev, `disks` are raw images that it sees and does not change."""
        overlays = []
        for number, disk in enumerate((self.directory / "disk.raw", *disks)):
            overlay = directory / f"disk{number}.qcow2"
            make = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(disk), "-F", "raw", str(overlay)]
            subprocess.run(make, check=True)
            overlays += ["-drive", f"file={overlay},if=virtio,cache=unsafe"]
        if kvm:
            machine = ["-accel", "kvm", "-cpu", "host", "-kernel", str(self.directory / "vmlinuz")]
        else:  # an uncompressed kernel, and a processor without what TCG is slow at
            machine = ["-accel", "tcg,tb-size=256", "-cpu", "Nehalem", "-kernel", str(self.directory / "vmlinux")]
        return [
            "qemu-system-x86_64", "-machine", "q35", *machine, "-smp", "1", "-m", str(memory),
            "-nodefaults", "-display", "none", "-serial", f"file:{directory}/console",
            "-monitor", f"unix:{directory}/monitor,server,nowait", "-device", "virtio-rng-pci",
            "-initrd", str(self.directory / "initrd"), "-append", f"{KERNEL_OPTIONS} {options}",
            *overlays, "-netdev", network, "-device", f"virtio-net-pci,netdev=net,mac={mac(directory.name)}",
        ]  # fmt: skip


def mac(name: str) -> str:
    """A locally administered address that a name has every time."""
    return "52:54:00:" + hashlib.sha256(name.encode()).digest()[:3].hex(":")


def ssh(address: str, port: int, control: Path) -> tuple[str, ...]:
    """The command line of ssh(1) as root. Its machines are new every time and nobody else's, so their keys are not
    compared."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": "10",
        "ControlPath": f"{control}/ssh-%h-%p",
        "LogLevel": "ERROR",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    return ("ssh", "-i", str(KEY), "-p", str(port), *ONE_CONNECTION, *words, f"root@{address}")


class QemuDriver(MachineDriver):
    """Machines of the image "lab". Their only network is the lab's; this machine is its gateway, from where they are
    administered."""

    name = "qemu"

    def __init__(self, topology: Topology) -> None:
        super().__init__(topology)
        self.image = Image("lab")
        self.kvm = kvm_works()
        self.slow = 1.0 if self.kvm else TCG_SLOWDOWN
        self.patience = 2.5 if self.kvm else 10.0
        self.instance = Instance()
        self._switch: LabHost | None = None
        self._processes: list[subprocess.Popen[str]] = []
        first = topology.host(topology.controller)
        self.network = IPv4Network((int(first.v4) & ~((1 << (32 - topology.prefix_v4)) - 1), topology.prefix_v4))
        self.gateway = self.network[1]

    @property
    def management(self) -> tuple[str, ...]:
        return (f"{self.gateway}/32",)

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise LabError("the lab makes namespaces and a bridge: run it as root")
        self.image.check()
        self.instance.claim()
        try:
            self._raise()
            self.install()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def switch(self) -> LabHost:
        if self._switch is None:
            raise LabError("the lab is not up")
        return self._switch

    def _raise(self) -> None:
        self._switch = LabHost(self.instance, SWITCH, {})
        self._switch.ready()
        commands = ["link set lo up", "link add br0 type bridge mcast_snooping 0"]
        commands += [f"addr add {self.gateway}/{self.topology.prefix_v4} dev br0", "link set br0 up"]
        for host in self.topology.hosts:
            commands += [f"tuntap add {host.name} mode tap", f"link set {host.name} master br0 up"]
        self._ip(commands)
        for host in self.topology.hosts:
            self._power_on(host)
        parallel(self._await, [host.name for host in self.topology.hosts])

    def _ip(self, commands: list[str]) -> None:
        self.switch.check(["ip", "-batch", "-"], stdin="\n".join(commands) + "\n", unit="/init.scope")

    def _power_on(self, host: HostSpec) -> None:
        directory = self.instance.directory / "machines" / host.name
        directory.mkdir(parents=True)
        options = f"ip={host.v4}::{self.gateway}:{self.network.netmask}:{host.name}:eth0:off"
        options += f" systemd.hostname={host.name}"
        tap = f"tap,id=net,ifname={host.name},script=no,downscript=no"
        argv = self.image.argv(self.kvm, directory, options, tap, memory=512)
        with (directory / "qemu.log").open("w") as log:
            self._processes.append(self.switch.popen(argv, unit=f"qemu-{host.name}.service", output=log))
        enter = self.switch.place.argv(ssh(str(host.v4), 22, directory))
        self.machines[host.name] = RemoteHost(host.name, tuple(enter))

    def _await(self, host: str) -> None:
        until(f"the machine {host} has booted", lambda: self.machines[host].reachable(30), 600, every=1)

    def partition(self, host: str, cut: bool) -> None:
        self._ip([f"link set dev {host} {'down' if cut else 'up'}"])

    def close(self) -> None:
        """Take everything down. May be called twice."""
        with undisturbed():
            self.instance.kill()
            for process in self._processes:
                process.kill()
                process.wait()
            if self._switch is not None:
                self._switch.close()
                self._switch = None
            self.instance.release()
            self._processes, self.machines = [], {}
        super().close()
