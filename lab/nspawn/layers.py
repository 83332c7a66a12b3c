"""What a machine's root is made of: overlay layers, the later one below. Upper layers are in a tmpfs of the lab.

own (writable)  hostname, addresses, units of this host
segctl          optional: this checkout installed in /opt/segctl, with its units
common          what all machines of a lab share
base            this machine's own root, or a Debian made by debootstrap
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from lab.accounts import hosts_file
from lab.host import HERE, REPOSITORY
from lab.topology import Topology

FILES = HERE / "nspawn" / "files"
PREFIX = "opt/segctl"
USERS = (("shop", 1990), ("alice", 1991))
"""Users of a machine beside those of its packages."""

MASKED = (
    "apt-daily.service",
    "apt-daily.timer",
    "apt-daily-upgrade.service",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "container-getty@.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "getty@.service",
    "ldconfig.service",
    "logrotate.timer",
    "man-db.timer",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt.service",
    "systemd-machine-id-commit.service",
    "systemd-networkd-wait-online.service",
    "systemd-timesyncd.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
)
"""What a container cannot do, or what would only cost time."""

FORGOTTEN = (
    "etc/cron.d",
    "etc/cron.daily",
    "etc/cron.hourly",
    "etc/cron.monthly",
    "etc/cron.weekly",
    "etc/nginx/conf.d",
    "etc/nginx/sites-enabled",
    "etc/rc2.d",
    "etc/rc3.d",
    "etc/rc4.d",
    "etc/rc5.d",
    "etc/rcS.d",
    "etc/systemd/network",
    "etc/systemd/system",
    "root",
    "var/lib/segctl-agent",
    "var/lib/segctl-controller",
    "var/log/journal",
    "var/log/nginx",
    "var/tmp",
)
"""Directories of the base that no machine sees: what that machine has enabled, configured or kept."""


def write_common(layer: Path, base: Path, topology: Topology, keys: Path) -> None:
    """The layer that all machines share, into the empty directory `layer`. `keys` holds the lab's SSH keys."""
    for name in FORGOTTEN:
        directory = layer / name
        directory.mkdir(parents=True)
        if (base / name).is_dir():
            os.setxattr(directory, "trusted.overlay.opaque", b"y")  # Documentation/filesystems/overlayfs.rst
    shutil.copytree(FILES, layer, dirs_exist_ok=True)
    system = layer / "etc/systemd/system"
    for unit in MASKED:
        (system / unit).symlink_to("/dev/null")
    (system / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    enable(layer, "systemd-networkd.service")
    write(layer / "etc/machine-id", "")
    write(layer / "etc/fstab", "")
    write(layer / "etc/hosts", hosts_file(topology))
    _write_users(layer, base)
    _write_keys(layer, keys)
    write(layer / "opt/lab/programs.py", (HERE / "programs.py").read_text())
    (layer / "root").chmod(0o700)
    (layer / "var/log/nginx").chmod(0o755)
    (layer / "var/tmp").chmod(0o1777)


def _write_users(layer: Path, base: Path) -> None:
    """The base's accounts and ours."""
    for name, line in (
        ("passwd", "{0}:x:{1}:{1}::/home/{0}:/bin/bash\n"),
        ("group", "{0}:x:{1}:\n"),
        ("shadow", "{0}:*:19000::::::\n"),
    ):
        kept = [x for x in (base / "etc" / name).read_text().splitlines(keepends=True) if not _is_ours(x)]
        write(layer / "etc" / name, "".join([*kept, *(line.format(*user) for user in USERS)]))
    (layer / "etc/shadow").chmod(0o600)
    for user, number in USERS:
        home = layer / "home" / user
        home.mkdir(parents=True)
        os.chown(home, number, number)


def _is_ours(line: str) -> bool:
    """Also an agent's or controller's user of the base: a machine gets its own when it is installed."""
    return line.split(":")[0] in {"segctl", "segctl-agent", *(user for user, _ in USERS)}


def _write_keys(layer: Path, keys: Path) -> None:
    """One host key and one login key for the whole lab, so that every machine knows every other."""
    host_key, login_key = keys / "ssh_host_ed25519_key", keys / "id_ed25519"
    known = f"* {host_key.with_suffix('.pub').read_text()}"
    for home, owner in ((layer / "root", 0), *((layer / "home" / user, number) for user, number in USERS)):
        directory = home / ".ssh"
        directory.mkdir(mode=0o700)
        shutil.copy(login_key, directory)
        shutil.copy(login_key.with_suffix(".pub"), directory / "authorized_keys")
        (directory / "known_hosts").write_text(known)
        for path in (directory, *directory.iterdir()):
            os.chown(path, owner, owner)
    for path in (host_key, host_key.with_suffix(".pub")):
        (layer / "etc/ssh").mkdir(exist_ok=True)
        shutil.copy(path, layer / "etc/ssh")


def write_segctl(layer: Path) -> None:
    """This checkout in /opt/segctl with what it needs of the running virtual environment, its units and users, as a
    package would leave them. Nothing of it lies in the checkout, which ordinary users may not be able to read."""
    site = layer / PREFIX / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    programs = layer / PREFIX / "bin"
    for directory in (site, programs):
        directory.mkdir(parents=True)
    for requirement in _requirements("segctl", ("agent", "controller")):
        for file in importlib.metadata.distribution(requirement).files or ():
            if ".." not in file.parts and Path(str(file.locate())).exists():
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), site / file)
    for package in ("agent/segctl_agent", "controller/segctl_controller", "common/segctl"):
        shutil.copytree(REPOSITORY / package, site / Path(package).name, dirs_exist_ok=True)
    (programs / "python").symlink_to("/usr/bin/python3")
    write(layer / PREFIX / "pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n")
    (layer / "usr/local/bin").mkdir(parents=True)
    for name in ("segctl", "segctl-agent", "segctl-controller"):
        text = (Path(sys.prefix) / "bin" / name).read_text()
        write(programs / name, re.sub("^#!.*", f"#!/{PREFIX}/bin/python", text))
        (programs / name).chmod(0o755)
        (layer / "usr/local/bin" / name).symlink_to(f"/{PREFIX}/bin/{name}")
    for source in (REPOSITORY / "systemd").rglob("*"):
        if source.is_file():
            below = source.relative_to(REPOSITORY / "systemd")
            directory = Path("usr/lib/systemd/system") if below.parent == Path() else Path("usr/lib")
            write(layer / directory / below, source.read_text())


def _requirements(name: str, extras: Iterable[str]) -> set[str]:
    """The distributions that `name` with `extras` needs, transitively, itself excluded."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [(name, tuple(extras))]
    while waiting:
        one, wanted = waiting.pop()
        for text in importlib.metadata.requires(one) or ():
            requirement = Requirement(text)
            marker = requirement.marker
            applies = marker is None or any(marker.evaluate({"extra": extra}) for extra in (*wanted, ""))
            if applies and requirement.name not in found and requirement.name != name:
                found.add(requirement.name)
                waiting.append((requirement.name, tuple(requirement.extras)))
    return found


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def enable(layer: Path, unit: str, target: str = "multi-user.target", directory: str = "/lib/systemd/system") -> None:
    """What `systemctl enable` does."""
    wants = layer / "etc/systemd/system" / f"{target}.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / unit).unlink(missing_ok=True)
    (wants / unit).symlink_to(f"{directory}/{unit}")
