"""The operations guide, from its first command to its last, on machines that nobody has touched: a controller, an
operator's desk, three servers. A command that cannot be run here is named below, with what is done in its place."""

from __future__ import annotations

import errno
import os
import pty
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from lab.fleet import parallel
from lab.host import REPOSITORY
from lab.nspawn.lab import NspawnLab
from lab.nspawn.machine import Machine
from lab.packages import AGENT, CLI, CONTROLLER, Packages, build_packages, other_version, put
from lab.topology import load_topology
from lab.wait import until
from tests.guide import GUIDE, Command, File, Scene, Step, steps

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
NEWER = "+newer"
PLACES = {"alice": "desk"}
"""The machine of a prompt that is not called like it."""
SHORTER = {"--pause 300": "--pause 1"}
"""What would take too long."""
RUN_ELSEWHERE = {"ansible-playbook -i inventory.yml site.yml": "tests/packages/test_deploy.py"}
ASKING = ("segctl push", "segctl rollback", "segctl host remove")
"""They ask, and are answered with yes."""
LOOKING = (
    "segctl status",
    "segctl denied",
    "segctl flows",
    "segctl audit",
    "segctl doctor",
    "segctl-agent status",
    "segctl-agent doctor",
    "segctl-controller doctor",
    "ssh root@web1 segctl-agent doctor",
    "journalctl",
)
"""They change nothing: looked at again until what the guide shows is there."""
PATIENCE_SECONDS = 40
ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "COLUMNS": "250", "SEGCTL_WATCH": "1"}
"""Of every command; a push that says nothing else is watched for a shorter time than the guide says."""
APT = 'APT::Get::Assume-Yes "true";\nAPT::Install-Recommends "false";\n'


class Reader:
    """Does what the guide says. `scenes` are what happens in between."""

    def __init__(self, lab: NspawnLab, packages: Packages) -> None:
        self.lab, self.machines, self.packages = lab, lab.machines, packages
        self.scenes: dict[str, Callable[[], object]] = {
            "traffic": self.traffic,
            "dev1-calls-the-api": self.dev1_calls_the_api,
            "the-controller-is-lost": self.the_controller_is_lost,
            "dev1-works-nightly": self.dev1_works_nightly,
        }

    # What a reader has

    def prepare(self, newer: Packages) -> None:
        """Names, packages, and an apt that asks nobody; no segctl is installed."""
        parallel(partial(self.prepare_machine, newer), list(self.machines.values()))

    def prepare_machine(self, newer: Packages, machine: Machine) -> None:
        machine.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n", 0o755)  # images of containers forbid it
        machine.write("/etc/apt/apt.conf.d/99guide", APT)
        control = self.machines["ctl"].spec
        names = "".join(f"{address} ctl.example.net\\n" for address in (control.v4, control.v6))
        machine.check(["sh", "-c", f"printf '{names}' >>/etc/hosts; mkdir -p /root/new /root/old"])
        machine.check(["sh", "-c", "rm -rf /var/lib/apt/lists/*"])  # nothing of them is needed; apt reads for 20 s
        machine.run(["rmdir", "/var/lib/segctl-agent", "/var/lib/segctl-controller"])  # the lab's
        mine = {"ctl": [CONTROLLER, CLI], "desk": [CLI]}.get(machine.name, [AGENT])
        for path in put(machine, self.packages, mine):
            machine.check(["sh", "-c", f"ln {path} /root/ && ln {path} /root/old/"])
        if machine.name in ("ctl", "web1"):
            for path in put(machine, newer, mine):
                machine.check(["ln", path, "/root/new/"])

    # What the reader does

    def follow(self, step: Step) -> None:
        """Raises AssertionError with the line of the guide."""
        if isinstance(step, File):
            self.machines["desk"].write(f"/home/alice/{step.path}", step.content, owner="alice:alice")
            self.machines["desk"].check(["chown", "alice:alice", str(Path(f"/home/alice/{step.path}").parent)])
        elif isinstance(step, Scene):
            assert step.name in self.scenes, f"{GUIDE}:{step.line}: no scene {step.name}"
            self.scenes[step.name]()
        elif step.place == "build":
            self.build(step)
        elif step.text == "reboot":
            self.machines[step.place].reboot()
        else:
            self.command(step)

    def build(self, step: Command) -> None:
        if step.text == "make deb":
            assert set(self.packages) == {AGENT, CONTROLLER, CLI}
            return
        directory, _, command = step.text.removeprefix("cd ").partition(" && ")
        assert command in RUN_ELSEWHERE, f"{GUIDE}:{step.line}: nothing runs {step.text}"
        words = (REPOSITORY / RUN_ELSEWHERE[command]).read_text()
        assert all(f'"{word}"' in words for word in shlex.split(command)[1:]), f"{GUIDE}:{step.line}: {step.text}"
        assert (REPOSITORY / directory / "site.yml").exists()

    def command(self, step: Command) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            code, printed = self.run(step)
            missing = step.missing(printed)
            if code == step.exit_code and not missing:
                return
            if not step.text.startswith(LOOKING) or time.monotonic() > end:
                said = f"exit code {code}" if code != step.exit_code else f"it does not print: {missing}"
                raise AssertionError(f"{GUIDE}:{step.line}: {step.place}: {step.text}\n{said}\n{printed}")
            time.sleep(1)

    def run(self, step: Command) -> tuple[int, str]:
        """(exit code, what it printed)"""
        text = step.text
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        user = "root" if step.root else step.place
        machine = self.machines[PLACES.get(step.place, step.place)]
        home = Path("/root" if user == "root" else f"/home/{user}")
        command = ["bash", "-o", "pipefail", "-c", text]
        if text.startswith(ASKING):
            return on_terminal(machine, command, user, home)
        process = machine.popen(command, user=user, environment=ENVIRONMENT, here=home)
        printed, _ = process.communicate(timeout=240)
        return process.returncode, printed

    # What happens

    def traffic(self) -> None:
        """A customer at the desk asks the shop, whose front asks its API."""
        for path in ("/", "/api/"):
            self.machines["desk"].check(["curl", "-sS", "--noproxy", "*", "--max-time", "10", f"http://web1{path}"])

    def dev1_calls_the_api(self) -> None:
        command = ["curl", "-sS", "--noproxy", "*", "--max-time", "3", "http://api1:8080/"]
        self.machines["dev1"].run(command)

    def the_controller_is_lost(self) -> None:
        """After a push that the backup does not know of."""
        control = self.machines["ctl"]
        self.command(Command(0, "alice", False, "segctl push policy/ --force --yes --watch 0", ()))
        control.check(["sh", "-c", "cp /var/backups/segctl/*.backup /root/fleet.backup"])
        control.check(["dpkg", "--purge", CONTROLLER, CLI], seconds=120)
        control.check(["sh", "-c", "rm -r /var/lib/segctl-controller /var/backups/segctl"])

    def dev1_works_nightly(self) -> None:
        """A service of dev1 needs the desk, and no rule says so. Returns when that was seen."""
        loop = "while :; do /usr/bin/python3 -I -S /opt/lab/programs.py reach desk 22; sleep 0.3; done"
        self.machines["dev1"].check(["systemd-run", "--unit=nightly", "bash", "-c", loop])

        def seen() -> bool:
            command = Command(0, "alice", False, "segctl flows --host dev1 --since 1h", ())
            return "tcp/22" in self.run(command)[1]

        until("the flow of dev1 is known", seen, PATIENCE_SECONDS, every=1)


def on_terminal(machine: Machine, command: Sequence[str], user: str, here: Path) -> tuple[int, str]:
    """(exit code, what it printed) of a command that asks, and is told yes."""
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n")
    process = machine.popen(command, user=user, stdin=theirs, output=theirs, environment=ENVIRONMENT, here=here)
    os.close(theirs)
    printed = b""
    try:
        while piece := os.read(ours, 65536):
            printed += piece
    except OSError as error:
        if error.errno != errno.EIO:  # nobody holds the other end any more
            raise
    finally:
        os.close(ours)
    return process.wait(60), printed.decode()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    packages, folder = build_packages(), tmp_path_factory.mktemp("newer")

    def newer(name: str) -> Packages:
        return other_version({name: packages[name]}, NEWER, folder)

    with NspawnLab(load_topology(HERE / "guide.json"), installed=False) as lab:
        reader = Reader(lab, packages)
        reader.prepare({name: file for one in parallel(newer, list(packages)) for name, file in one.items()})
        yield reader


def test_the_guide_does_what_it_says(reader: Reader) -> None:
    met = set()
    for step in steps(GUIDE.read_text(encoding="utf-8")):
        reader.follow(step)
        if isinstance(step, Scene):
            met.add(step.name)
    assert met == set(reader.scenes)
