"""segctl-agent as a process on the real kernel, without a controller: load, run, tamper, kill, release.

Each test is a host of its own: network, mount and cgroup namespaces.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from segctl.model.hostpolicy import Entry, Group, HostPolicy, LocalWorkload
from segctl.model.policy import Mode, PortRange, Process, ProcessKind
from segctl_agent.credentials import save_identity
from segctl_agent.decisions import noted
from segctl_agent.drift import same_but_cgroups
from segctl_agent.facts.moves import MOVES_SECONDS
from segctl_agent.moves import SETTLED_SECONDS
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.ruleset import Ruleset
from segctl_agent.release import Told
from segctl_agent.state import StateFolder

from tests.netns.spaces import CGROUPS, in_namespaces, run
from tests.patience import patience
from tests.unit.segctl_agent.pki import Authority

pytestmark = pytest.mark.kernel

AGENT = str(Path(sys.executable).with_name("segctl-agent"))
POLICY = HostPolicy(
    host="db-1",
    generation=5,
    policy_digest="d" * 64,
    workloads=(
        LocalWorkload(
            "db",
            Process(ProcessKind.UNIT, "db.service"),
            Mode.ENFORCE,
            ingress=(Entry("web-to-db", "g1", (PortRange("tcp", 5432, 5432),), managed=True),),
        ),
        LocalWorkload("host", None, Mode.OBSERVE),
    ),
    groups=(Group("g1", (ip_network("10.9.0.2/32"),)),),
)


def agent(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([AGENT, *arguments], capture_output=True, text=True, check=False, timeout=patience(60))


def start(state: Path, *options: str) -> subprocess.Popen[str]:
    """A running agent, ready."""
    notify = str(state / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(notify)
        link.settimeout(patience(20))
        process = subprocess.Popen(
            [AGENT, "run", "--state", str(state), *options],
            stderr=(state / "log").open("a"),
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": notify},
        )
        try:
            message = link.recv(4096).decode()
        except TimeoutError:
            process.kill()
            raise AssertionError((state / "log").read_text()) from None
    Path(notify).unlink()
    assert message.startswith("READY=1"), message
    return process


def table() -> Ruleset | None:
    kernel = NetlinkKernel()
    try:
        return kernel.read()
    finally:
        kernel.close()


def marks(held: Ruleset) -> set[bytes]:
    """The marks that count, as the table has them."""
    return set(held.sets["live"].elements)


def until(condition: Callable[[], Any], seconds: float = 10.0) -> float:
    """Waits for a condition; the seconds it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < patience(seconds), "it did not come true in time"
        time.sleep(0.001)
    return time.monotonic() - started


def enrolled(folder: Path, generation: bool = True) -> StateFolder:
    folder.mkdir(mode=0o700)
    save_identity(folder, Authority().identity("db-1", ("127.0.0.1:1",)))
    state = StateFolder(folder)
    if generation:
        state.write_generation(POLICY, (1, 1))
    return state


def test_load_show_status_release(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def host() -> None:
        enrolled(folder)
        state = ("--state", str(folder))
        (CGROUPS / "system.slice" / "db.service").mkdir(parents=True)
        shown = agent("show", *state)
        assert (shown.returncode, shown.stdout) == (3, "")
        loaded = agent("load", *state)
        assert loaded.returncode == 0, loaded.stderr
        assert loaded.stdout == "generation 5 in force\n"
        held = table()
        shown = agent("show", *state)
        assert shown.returncode == 0, shown.stderr
        assert "type filter hook input priority 0; policy drop;" in shown.stdout
        assert '"system.slice/db.service"' in shown.stdout
        assert "# ct bitwise" not in shown.stdout  # every rule is shown in words
        status = agent("status", *state)
        assert status.returncode == 3
        assert "agent: not running" in status.stdout
        assert agent("load", *state).returncode == 0
        assert table() == held  # twice is once
        run("nft", "add", "table", "inet", "other")
        released = agent("release", *state)
        assert released.returncode == 0, released.stderr
        assert table() is None
        assert run("nft", "list", "tables") == "table inet other\n"
        assert "RELEASED" in agent("status", *state).stdout
        assert agent("load", *state).returncode == 0
        assert table() is not None
        assert not StateFolder(folder).held

    in_namespaces(host)


def test_load_gives_no_id_that_a_flow_carries(tmp_path: Path) -> None:
    """After a release flows go on under the marks that they had."""
    folder = tmp_path / "state"

    def host() -> None:
        enrolled(folder, generation=False).write_generation(POLICY, (4096, 4096))  # the second round, at 1
        run("ip", "link", "set", "lo", "up")
        run("nft", "add table inet other; add chain inet other out { type filter hook output priority 0; }")
        run("nft", "add rule inet other out udp dport 9 ct mark set 0x00200300")  # OUT 2, IN 3
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.sendto(b"x", ("127.0.0.1", 9))
        assert agent("load", "--state", str(folder)).returncode == 0
        held = table()
        assert held is not None
        found = noted(held.chains, 4095)
        assert found is not None
        assert {("out", 3), ("in", 2)} <= found.by_id.keys()
        assert not {("out", 2), ("in", 3)} & found.by_id.keys()

    in_namespaces(host)


def test_run_follows_cgroups_heals_and_survives_kill_9(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def host() -> dict[str, float]:
        enrolled(folder)
        started = time.monotonic()
        process = start(folder, "--table-guard", "watch")
        figures = {"start to ready, s": time.monotonic() - started}
        first = table()
        assert first is not None
        unit = CGROUPS / "system.slice" / "db.service"

        def mapped(number: int) -> bool:
            held = table()
            return held is not None and number.to_bytes(8, sys.byteorder) in held.sets["cg2_in"].elements

        unit.mkdir(parents=True)
        before = unit.stat().st_ino
        figures["unit start to read back, s"] = until(lambda: mapped(before))
        unit.rmdir()
        unit.mkdir()
        assert unit.stat().st_ino != before
        until(lambda: mapped(unit.stat().st_ino))
        assert mapped(before)  # sockets may outlive the cgroup they were made in

        run("nft", "delete", "table", "inet", "segctl")
        figures["deleted table to read back, s"] = until(lambda: table() is not None)
        until(lambda: mapped(unit.stat().st_ino))
        run("nft", "insert", "rule", "inet", "segctl", "input", "accept")
        until(
            lambda: (
                (held := table()) is not None
                and len(held.chains["input"].rules) == len(first.chains["input"].rules)
                and not marks(held) & marks(first)  # what the foreign rule let pass is judged anew
            )
        )
        until(lambda: "the rules of chain input were changed" in (folder / "log").read_text())
        log = (folder / "log").read_text()
        assert "nft (pid" in log
        assert "the table is gone" in log

        held = table()
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert table() == held  # the rules stay
        process = start(folder)
        again = table()  # the same agent again only forgets the cgroup that is gone
        assert again is not None
        assert held is not None
        assert same_but_cgroups(again, held)
        assert mapped(unit.stat().st_ino)
        assert not mapped(before)
        second = agent("run", "--state", str(folder))
        assert second.returncode == 1
        assert "another agent runs" in second.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert table() == again
        return figures

    for name, value in in_namespaces(host).items():
        print(f"{name}: {value:.4f}")
        assert value < patience(5)


def test_release_with_a_running_agent_and_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def host() -> None:
        enrolled(folder)
        process = start(folder)
        released = agent("release", "--state", str(folder))
        assert released.returncode == 0, released.stderr
        assert table() is None
        (CGROUPS / "system.slice").mkdir()
        time.sleep(1.2)  # longer than the agent takes to look at the hold
        assert table() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        process = start(folder)  # a restart is no end of a release
        assert table() is None
        loaded = agent("load", "--state", str(folder))
        assert loaded.returncode == 0
        until(lambda: table() is not None)
        brief = agent("release", "--for", "3s", "--reason", "to see it end", "--state", str(folder))
        assert brief.returncode == 0, brief.stderr
        assert "UTC: to see it end. Every packet passes now" in brief.stdout
        until(lambda: not StateFolder(folder).held and table() is not None)
        told = [(e.action, e.reason) for e in Told(folder).waiting(20)]
        once = [("release", ""), ("release-ended", "")]
        assert told == [*once, ("release", "to see it end"), ("release-ended", "")]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0

    in_namespaces(host)


def test_damaged_state(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def host() -> None:
        state = enrolled(folder)
        state.write_generation(replace(POLICY, generation=6), (1, 1))
        where = ("--state", str(folder))
        newest = folder / "generation.1"
        newest.write_bytes(newest.read_bytes()[:100])
        loaded = agent("load", *where)
        assert loaded.stdout == "generation 5 in force\n"  # the one before
        assert "generation.1" in loaded.stderr
        held = table()
        for path in (folder / "generation.0", folder / "generation.1"):
            path.write_bytes(b"junk")
        loaded = agent("load", *where)
        assert loaded.returncode == 1
        assert "left as they were" in loaded.stdout
        assert table() == held
        run("nft", "delete", "table", "inet", "segctl")
        loaded = agent("load", *where)
        assert loaded.returncode == 1
        assert loaded.stdout == "closed\n"
        closed = table()
        assert closed is not None
        assert closed.chains["input"].base is not None
        assert closed.chains["input"].base.drop

    in_namespaces(host)


def test_never_enrolled_and_no_generation(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def host() -> None:
        for command in ("load", "run", "status"):
            done = agent(command, "--state", str(folder))
            assert done.returncode == 1
            assert "not enrolled" in done.stderr
            assert "Traceback" not in done.stderr
        enrolled(folder, generation=False)
        assert agent("load", "--state", str(folder)).stdout == "no generation yet\n"
        assert table() is None

    in_namespaces(host)


def test_without_privileges_each_command_says_what_it_lacks(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def host() -> list[tuple[int, str]]:
        enrolled(folder)
        powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", AGENT]
        out = []
        for command in ("load", "run", "status", "show"):
            done = subprocess.run(
                [*powerless, command, "--state", str(folder)], capture_output=True, text=True, check=False, timeout=60
            )
            out.append((done.returncode, done.stderr))
        return out

    for code, errors in in_namespaces(host):
        assert code == 1, errors
        assert "CAP_NET_ADMIN" in errors
        assert "Traceback" not in errors


def test_without_cgroup_v2(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def host() -> subprocess.CompletedProcess[str]:
        enrolled(folder)
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in reversed([m for m in mounts if Path("/sys") in (Path(m), *Path(m).parents)]):
            run("umount", "-l", mount)
        assert " - cgroup2 " not in Path("/proc/self/mountinfo").read_text()
        return agent("run", "--state", str(folder))

    done = in_namespaces(host)
    assert done.returncode == 1
    assert "no cgroup v2" in done.stderr
    assert "systemd.unified_cgroup_hierarchy=1" in done.stderr


def test_the_status_of_a_running_agent(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def host() -> tuple[str, dict[str, Any]]:
        enrolled(folder)
        process = start(folder)
        until(lambda: (folder / "status.json").exists())
        done = agent("status", "--state", str(folder))
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        assert done.returncode == 3  # no controller
        return done.stdout, json.loads((folder / "status.json").read_text())

    text, status = in_namespaces(host)
    assert "generation 5 in force" in text
    assert (status["host"], status["generation"], status["controller"]) == ("db-1", 5, "")


def test_a_process_that_was_moved_into_another_workload_is_told(tmp_path: Path) -> None:
    def body() -> str:
        for path in ("init.scope", "system.slice/other.service", "system.slice/db.service"):
            (CGROUPS / path).mkdir(parents=True)
        state = tmp_path / "state"
        enrolled(state)
        sleeper = subprocess.Popen(["/bin/sleep", "60"])
        (CGROUPS / "system.slice/other.service/cgroup.procs").write_text(str(sleeper.pid))
        running = start(state)
        try:
            time.sleep(MOVES_SECONDS + SETTLED_SECONDS)
            (CGROUPS / "system.slice/db.service/cgroup.procs").write_text(str(sleeper.pid))
            until(lambda: "was moved into" in (state / "log").read_text())
        finally:
            sleeper.kill()
            running.terminate()
            running.wait(10)
        return next(line for line in (state / "log").read_text().splitlines() if "was moved into" in line)

    told = in_namespaces(body)
    assert "tamper: process sleep (pid" in told
    assert "of workload host was moved into system.slice/db.service of workload db" in told
