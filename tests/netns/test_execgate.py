"""The exec gate on the kernel's own fanotify and cgroups, and what nftables makes of it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from segctl.model.hostpolicy import Entry, Group, LocalWorkload
from segctl.model.policy import Mode, PortRange, Process, ProcessKind
from segctl_agent.enforcer import Enforcer
from segctl_agent.execgate.lock import gate_runs
from segctl_agent.execgate.targets import FILE
from segctl_agent.facts.cgroups import CgroupWatcher
from segctl_agent.nft.kernel import NetlinkKernel

from tests.netns.samples import policy
from tests.netns.spaces import CGROUPS, in_namespaces, run
from tests.patience import patience

pytestmark = pytest.mark.kernel

UNIT = "system.slice/x.service"
GATED = f"{UNIT}/segctl-exe-prog"
AGENT = 977
"""The user id of the agent, to whom the state folder belongs and nobody else may look into."""
RUN = "from segctl_agent.main import main; main()"
AS_IN_THE_UNIT = ("setpriv", "--bounding-set", "-all,+sys_admin,+sys_ptrace,+dac_read_search", "--no-new-privs")
"""The capabilities of systemd/segctl-exec-gate.service: the tests prove that they are enough."""


class Stage:
    """A program A, its copy B, and a gate that knows A as the workload `prog`."""

    def __init__(self, program: str = "/bin/bash", unit: str = UNIT) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="segctl-gate-"))
        self.a, self.b = self.folder / "a", self.folder / "b"
        for copy in (self.a, self.b):
            shutil.copy(program, copy)
        self.state = self.folder / "state"
        self.state.mkdir(0o700)
        os.chown(self.state, AGENT, AGENT)
        self.unit = unit
        (CGROUPS / unit).mkdir(parents=True)
        self.gate: subprocess.Popen[bytes] | None = None
        self.name(self.a)

    def name(self, *paths: Path) -> None:
        """What the agent does, atomically, with its list."""
        new = self.state / "new"
        new.write_text(json.dumps([{"workload": "prog", "path": str(path)} for path in paths]))
        new.chmod(0o600)
        os.chown(new, AGENT, AGENT)
        new.rename(self.state / FILE)

    def start(self) -> None:
        """The gate, in a cgroup of its own, with its marks set."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind("\0segctl-gate-test")  # abstract: of this network namespace
            told.settimeout(30)
            self.gate = subprocess.Popen(
                [*AS_IN_THE_UNIT, sys.executable, "-c", RUN, "exec-gate", "--state", self.state],
                env={**os.environ, "NOTIFY_SOCKET": "@segctl-gate-test"},
                preexec_fn=lambda: join("system.slice/gate.service"),
            )
            assert told.recv(4096).startswith(b"READY=1\n")

    @property
    def worker(self) -> int:
        assert self.gate is not None
        return int(Path(f"/proc/{self.gate.pid}/task/{self.gate.pid}/children").read_text().split()[0])

    def ended(self) -> int:
        """The exit code of a gate that ends by itself."""
        assert self.gate is not None
        code, self.gate = self.gate.wait(timeout=20), None
        return code

    def popen(self, program: Path, script: str, uid: int = 0) -> subprocess.Popen[str]:
        def enter() -> None:
            join(self.unit)
            os.setuid(uid)

        return subprocess.Popen(
            [program, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=enter
        )

    def say(self, program: Path, script: str) -> str:
        with self.popen(program, script) as process:
            return process.communicate(timeout=20)[0]

    def cgroup_of(self, program: Path) -> str:
        return cgroup(self.say(program, "echo $(</proc/self/cgroup)"))

    def kill(self) -> None:
        if self.gate is not None:
            self.gate.kill()
            self.gate.wait()
            self.gate = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)


def join(path: str) -> None:
    (CGROUPS / path).mkdir(parents=True, exist_ok=True)
    (CGROUPS / path / "cgroup.procs").write_text("0")


def cgroup(text: str) -> str:
    return text.split("0::/")[1].split()[0]


def cgroup_of(pid: int) -> str:
    return cgroup(Path(f"/proc/{pid}/cgroup").read_text())


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def on_stage(body: Callable[[Stage], None], **stage: str) -> None:
    def call() -> None:
        join("init.scope")
        made = Stage(**stage)
        try:
            body(made)
        finally:
            made.close()

    in_namespaces(call)


def test_a_program_is_moved_as_it_starts_and_its_copy_is_not() -> None:
    def body(stage: Stage) -> None:
        stage.start()
        assert [stage.cgroup_of(p) for p in (stage.a, stage.b) * 10] == [GATED, UNIT] * 10
        hard, soft = stage.folder / "hard", stage.folder / "soft"
        hard.hardlink_to(stage.a)
        soft.symlink_to(stage.a)
        assert {stage.cgroup_of(p) for p in (hard, soft)} == {GATED}  # the file is the same
        assert (CGROUPS / GATED).stat().st_uid == 0

    on_stage(body)


def test_the_dynamic_linker_started_with_the_program_is_not_the_program() -> None:
    def body(stage: Stage) -> None:
        stage.start()
        linker = Path("/lib64/ld-linux-x86-64.so.2")
        assert linker.exists(), "this machine's linker has another name: extend the test"
        with stage.popen(stage.b, f"exec {linker} {stage.a} -c 'echo $(</proc/self/cgroup)'") as process:
            assert cgroup(process.communicate(timeout=20)[0]) == UNIT

    on_stage(body)


def test_a_script_is_its_interpreter() -> None:
    def body(stage: Stage) -> None:
        stage.start()
        script = stage.folder / "script"
        script.write_text(f"#!{stage.a}\necho $(</proc/self/cgroup)\n")
        script.chmod(0o755)
        with stage.popen(stage.b, str(script)) as process:
            assert cgroup(process.communicate(timeout=20)[0]) == GATED

    on_stage(body)


def test_who_runs_something_else_goes_back() -> None:
    """A shell that the program starts, and who asked for an exec that then failed (E2BIG comes after the file is
    opened)."""

    def body(stage: Stage) -> None:
        stage.start()
        parent = stage.popen(stage.a, f"{stage.b} -c 'echo $$; sleep 60; :' & wait")
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert cgroup_of(parent.pid) == GATED
        eventually(lambda: cgroup_of(child) == UNIT)
        assert cgroup_of(parent.pid) == GATED
        attempt = (
            "import os, sys\n"
            f"try: os.execv('{stage.a}', ['x', 'y' * 200000])\n"
            "except OSError as error: print(error.errno, flush=True)\n"
            "sys.stdin.read()"
        )

        def enter() -> None:
            join(UNIT)

        failed = subprocess.Popen(
            ["/usr/bin/python3", "-c", attempt],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=enter,
        )
        assert failed.stdout is not None
        assert failed.stdout.readline() == "7\n"
        eventually(lambda: cgroup_of(failed.pid) == UNIT)
        for process in (failed, parent):
            process.kill()
            process.wait()

    on_stage(body)


def test_a_replaced_file_is_marked_anew_and_who_runs_the_old_one_stays() -> None:
    def body(stage: Stage) -> None:
        stage.start()
        old = stage.popen(stage.a, "echo up; read x")
        assert old.stdout is not None
        assert old.stdout.readline() == "up\n"
        for _ in range(3):
            new = stage.folder / "new"
            shutil.copy(stage.b, new)
            new.rename(stage.a)  # as dpkg does
            eventually(lambda: stage.cgroup_of(stage.a) == GATED)
        stage.a.unlink()
        time.sleep(2.5)
        assert cgroup_of(old.pid) == GATED
        shutil.copy(stage.b, stage.a)
        eventually(lambda: stage.cgroup_of(stage.a) == GATED)
        assert stage.cgroup_of(stage.b) == UNIT
        old.kill()
        old.wait()

    on_stage(body)


def test_another_users_process_is_told_by_what_it_runs() -> None:
    def body(stage: Stage) -> None:
        stage.start()
        stage.folder.chmod(0o755)
        stage.a.chmod(0o711)
        other = stage.popen(stage.a, "echo up; exec 3<&0; read x", uid=65534)
        assert other.stdout is not None
        assert other.stdout.readline() == "up\n"
        time.sleep(2.5)  # a look or two of the gate
        assert cgroup_of(other.pid) == GATED
        other.kill()
        other.wait()

    on_stage(body)


def test_what_runs_already_is_taken_over() -> None:
    def body(stage: Stage) -> None:
        early = stage.popen(stage.a, "echo up; read x")
        assert early.stdout is not None
        assert early.stdout.readline() == "up\n"
        assert cgroup_of(early.pid) == UNIT
        stage.start()
        eventually(lambda: cgroup_of(early.pid) == GATED)
        early.kill()
        early.wait()

    on_stage(body)


def test_when_no_executable_is_named_the_gate_tidies_up_and_ends() -> None:
    def body(stage: Stage) -> None:
        stage.start()
        held = stage.popen(stage.a, "echo up; read x")
        assert held.stdout is not None
        assert held.stdout.readline() == "up\n"
        (stage.state / FILE).unlink()
        assert stage.ended() == 0
        assert cgroup_of(held.pid) == UNIT
        assert not (CGROUPS / GATED).exists()
        assert not gate_runs(stage.state)
        held.kill()
        held.wait()

    on_stage(body)


def test_a_list_that_cannot_be_read_leaves_the_one_before() -> None:
    def body(stage: Stage) -> None:
        stage.start()
        for text in ("", "{}", '[{"workload": "../x", "path": "/bin/sh"}]', '[{"workload": "w", "path": "bin/*"}]'):
            (stage.state / FILE).write_text(text)
            time.sleep(0.2)
            assert stage.cgroup_of(stage.a) == GATED
        stage.name(stage.b)
        eventually(lambda: stage.cgroup_of(stage.b) == GATED)
        assert stage.cgroup_of(stage.a) == UNIT

    on_stage(body)


@pytest.mark.parametrize("how", ["too deep", "delegated", "a user's manager"])
def test_where_no_cgroup_can_be_made_the_program_runs_as_its_unit(how: str) -> None:
    unit = {
        "too deep": "a.slice/b/c/d/e/f/g/h",
        "a user's manager": "user.slice/user-7.slice/user@7.service/app.slice",
    }.get(how, "system.slice/y.service")

    def body(stage: Stage) -> None:
        if how == "delegated":
            os.chown(CGROUPS / unit, 7, 7)
        stage.start()
        assert stage.cgroup_of(stage.a) == unit

    on_stage(body, unit=unit)


def test_in_a_threaded_cgroup_the_program_runs_as_its_unit() -> None:
    def body(stage: Stage) -> None:
        stage.start()
        threads = CGROUPS / UNIT / "threads"
        threads.mkdir()
        (threads / "cgroup.type").write_text("threaded")

        def enter() -> None:
            join(UNIT)
            (threads / "cgroup.threads").write_text("0")

        done = subprocess.run(
            [stage.a, "-c", "echo $(</proc/self/cgroup)"], stdout=subprocess.PIPE, text=True, preexec_fn=enter
        )
        assert cgroup(done.stdout) == f"{UNIT}/threads"
        threads.rmdir()  # empty, for nothing was left in it

    on_stage(body)


def test_a_cgroup_with_the_gates_name_that_a_user_made_is_never_told() -> None:
    def body() -> None:
        ours = CGROUPS / GATED
        forged = CGROUPS / "system.slice/d.service" / "segctl-exe-prog"
        nested = CGROUPS / "system.slice/e.service" / "segctl-exe-prog"
        for made in (ours, forged, nested, forged / "inner"):
            made.mkdir(parents=True)
        os.chown(forged, 7, 7)
        os.chown(nested.parent, 7, 7)
        told = CgroupWatcher(CGROUPS).scan()
        assert GATED in told
        assert not [path for path in told if path.startswith(("system.slice/d.service/", "system.slice/e.service/"))]

        async def live() -> None:
            told: set[str] = set()
            seen = asyncio.Event()

            def note(added: dict[str, int], removed: dict[str, int]) -> None:
                told.update(added)
                if "system.slice/e.service/other" in added:
                    seen.set()

            watcher = CgroupWatcher(CGROUPS)
            watcher.start(asyncio.get_running_loop(), note)
            (CGROUPS / "system.slice/e.service/segctl-exe-late").mkdir()
            (CGROUPS / "system.slice/e.service/other").mkdir()
            await asyncio.wait_for(seen.wait(), patience(10))
            assert {path for path in told if "segctl-exe" in path} == {GATED}
            watcher.close()

        asyncio.run(live())

    in_namespaces(body)


def test_a_gate_that_is_killed_holds_up_nobody_and_gives_nobody_anything() -> None:
    def body(stage: Stage) -> None:
        stage.start()
        running = stage.popen(stage.a, "echo up; read x")
        stage.kill()
        started = time.monotonic()
        eventually(lambda: not gate_runs(stage.state))
        assert stage.cgroup_of(stage.a) == UNIT
        assert time.monotonic() - started < 5
        stage.start()  # and another takes up what it left
        assert cgroup_of(running.pid) == GATED
        running.kill()
        running.wait()

    on_stage(body)


def test_a_gate_that_is_stopped_ends_with_its_worker() -> None:
    def body(stage: Stage) -> None:
        stage.start()
        assert stage.gate is not None
        stage.gate.terminate()
        assert stage.ended() == 0
        eventually(lambda: not gate_runs(stage.state))
        assert stage.cgroup_of(stage.a) == UNIT

    on_stage(body)


def test_one_gate_a_host() -> None:
    def body(stage: Stage) -> None:
        stage.start()
        second = subprocess.run(
            [sys.executable, "-c", RUN, "exec-gate", "--state", stage.state], capture_output=True, text=True
        )
        assert second.returncode == 1
        assert "another exec gate runs" in second.stderr

    on_stage(body)


def test_a_gate_that_hangs_is_ended_within_a_second() -> None:
    def body(stage: Stage) -> None:
        stage.start()
        os.kill(stage.worker, signal.SIGSTOP)
        started = time.monotonic()
        assert stage.cgroup_of(stage.a) == UNIT
        assert time.monotonic() - started < 2  # 1 s, and a machine that others use too
        assert stage.ended() == 1

    on_stage(body)


SERVER = """
import socket, sys
s = socket.create_server(('10.9.0.2', 7000), backlog=512); print('up', flush=True)
while True: s.accept()[0].close()
"""
CONNECT = "exec 3<>/dev/tcp/10.9.0.2/7000 && echo yes"
POLICY = policy(
    LocalWorkload("app", Process(ProcessKind.UNIT, "x.service"), Mode.ENFORCE),
    LocalWorkload(
        "prog",
        Process(ProcessKind.EXECUTABLE, "/a"),
        Mode.ENFORCE,
        egress=(Entry("prog-out", "there", (PortRange("tcp", 7000, 7000),), managed=True),),
    ),
    groups=(Group("there", (ip_network("10.9.0.2/32"),)),),
)


def _neighbour() -> subprocess.Popen[bytes]:
    """A server on another host, at the other end of a veth pair."""
    there = 'read x; ip addr add 10.9.0.2/24 dev far; ip link set far up; exec python3 -c "$0"'
    server = subprocess.Popen(
        ["unshare", "-n", "sh", "-c", there, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdin is not None
    assert server.stdout is not None
    run("ip", "link", "add", "near", "type", "veth", "peer", "name", "far")
    own = Path("/proc/self/ns/net").readlink()
    eventually(lambda: Path(f"/proc/{server.pid}/ns/net").readlink() != own)
    run("ip", "link", "set", "far", "netns", str(server.pid))
    run("ip", "addr", "add", "10.9.0.1/24", "dev", "near")
    run("ip", "link", "set", "near", "up")
    server.stdin.write(b"go\n")
    server.stdin.flush()
    assert server.stdout.readline() == b"up\n"
    return server


def test_50_of_50_first_connections_are_the_programs_own_and_none_of_its_copy() -> None:
    async def connect(stage: Stage, program: Path) -> tuple[bool, float]:
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            program,
            "-c",
            CONNECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: join(UNIT),
        )
        said, _ = await process.communicate()
        return said == b"yes\n", time.monotonic() - started

    async def play(stage: Stage) -> None:
        kernel = NetlinkKernel()
        enforcer = Enforcer(kernel, lambda _: {}, 0)
        watcher = CgroupWatcher(CGROUPS)
        watcher.start(asyncio.get_running_loop(), enforcer.cgroups_changed)
        enforcer.put(POLICY)
        stage.start()
        mine = [await connect(stage, stage.a) for _ in range(50)]
        others = await asyncio.gather(*(connect(stage, stage.b) for _ in range(50)))
        assert [ok for ok, _ in mine] == [True] * 50
        assert [ok for ok, _ in others] == [False] * 50
        # A first packet that is not known yet is sent again after a second: that heals, and is not what is meant.
        assert sum(seconds < 0.9 for _, seconds in mine) >= 48, mine
        stage.kill()
        assert not (await connect(stage, stage.a))[0]
        watcher.close()
        kernel.close()

    def body(stage: Stage) -> None:
        server = _neighbour()
        try:
            asyncio.run(play(stage))
        finally:
            server.kill()
            server.wait()

    on_stage(body)
