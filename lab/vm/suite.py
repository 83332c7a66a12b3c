"""Runs this checkout's tests on Debian's own kernel, in a virtual machine: `python -m lab.vm.suite [PYTEST ARGUMENTS]`.

The checkout, with its virtual environment, is copied to a disk of the machine and mounted at the same path. The tests'
report is written to build/kernel.xml. It needs the image "suite", which vagrant/README.md says how to make.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from lab.host import REPOSITORY
from lab.instance import LabError
from lab.vm.qemu import STORE, TCG_SLOWDOWN, Image, kvm_works, ssh
from lab.vm.remote import RemoteHost
from lab.wait import DeadlineError, until

REPORT = REPOSITORY / "build" / "kernel.xml"
DEFAULT = ("tests/netns", "tests/contract")
LEFT_OUT = (".git", ".mypy_cache", ".ruff_cache", ".hypothesis", "__pycache__", "dist", "bench/build", "bench/out")
SPARE_MIB = 300
# Without controllers, as where CI runs: else crun makes containers below a cgroup with processes threaded (cgroups(7)).
OPTIONS = "systemd.hostname=suite cgroup_disable=cpu,cpuset,io,memory,hugetlb,pids,rdma,misc"
SCRIPT = """
mkdir -p "$1" && mount -L checkout "$1" && cd "$1"
# A kernel test is of no unit and no login session: it begins in the root cgroup, as in a container that runs CI.
echo $$ >/sys/fs/cgroup/cgroup.procs
uname -r
export SEGCTL_PATIENCE="$2"
shift 2
exec .venv/bin/python -m pytest -p no:cacheprovider --timeout 1800 --junitxml=/run/kernel.xml "$@"
"""


def make_disk(target: Path) -> None:
    """The checkout as an ext4 image with the label "checkout"."""
    with tempfile.TemporaryDirectory(dir=STORE) as scratch:
        tree = Path(scratch)
        pack = ["tar", "-C", str(REPOSITORY), *(f"--exclude={name}" for name in LEFT_OUT), "-cf", "-", "."]
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
            subprocess.run(["tar", "-C", str(tree), "-xf", "-"], stdin=packing.stdout, check=True)
        used = int(subprocess.run(["du", "-sm", str(tree)], capture_output=True, check=True).stdout.split()[0])
        with target.open("wb") as disk:
            disk.truncate((used * 5 // 4 + SPARE_MIB) << 20)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-L", "checkout", "-d", str(tree), str(target)], check=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def run(arguments: list[str]) -> int:
    """pytest's exit code. Raises LabError when there is no image or its machine does not boot."""
    image, kvm = Image("suite"), kvm_works()
    image.check()
    if Path(sys.prefix) != REPOSITORY / ".venv":
        raise LabError(f"run it with {REPOSITORY}/.venv/bin/python: that environment is taken along")
    subprocess.run([REPOSITORY / "tools" / "neighbours.sh"], check=True)
    with tempfile.TemporaryDirectory(prefix="suite-", dir=STORE) as scratch:
        directory, port = Path(scratch), free_port()
        disk = directory / "checkout.raw"
        make_disk(disk)
        network = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"
        argv = image.argv(kvm, directory, OPTIONS, network, memory=2048, disks=(disk,))
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as machine:
            try:
                return _run_tests(RemoteHost("suite", ssh("127.0.0.1", port, directory)), kvm, arguments)
            except DeadlineError as error:
                raise LabError(f"{error}; see {directory}/console") from error
            finally:
                machine.kill()


def _run_tests(host: RemoteHost, kvm: bool, arguments: list[str]) -> int:
    until("the machine has booted", lambda: host.reachable(30), 900, every=1)
    patience = 1.0 if kvm else TCG_SLOWDOWN
    words = ["sh", "-c", SCRIPT, "sh", str(REPOSITORY), str(patience), *(arguments or DEFAULT)]
    # Straight to this terminal: such a run may take an hour.
    code = subprocess.run([*host.ssh, shlex.join(words)], check=False).returncode
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(host.check(["cat", "/run/kernel.xml"]))
    return code


if __name__ == "__main__":
    try:
        sys.exit(run(sys.argv[1:]))
    except LabError as problem:
        sys.exit(f"lab: {problem}")
