"""What doctor makes of a host: judgements without I/O, and looks at folders that lie here."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from segctl.doctor import Finding, Level
from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Mode
from segctl_agent.credentials import save_identity
from segctl_agent.doctor import channel, folder, kernel, table
from segctl_agent.doctor.channel import Reached
from segctl_agent.doctor.folder import Entry
from segctl_agent.doctor.kernel import KernelFacts
from segctl_agent.facts.conntrack import Fill
from segctl_agent.nft.foreign import Finding as Foreign
from segctl_agent.nft.foreign import Weight, Where
from segctl_agent.nft.ruleset import Ruleset
from segctl_agent.state import StateFolder

from tests.unit.segctl_agent.pki import Authority

NOW = datetime(2026, 11, 28, 6, 0, tzinfo=UTC)
POLICY = HostPolicy("db-1", 7, "d" * 64, (LocalWorkload("host", None, Mode.ENFORCE),))
WELL = KernelFacts("6.12.1", "", "", True)
ALL = sum(1 << number for number in kernel.CAPABILITIES.values())


def levels(found: Iterable[Finding]) -> list[Level]:
    return [f.level for f in found]


def test_every_problem_and_warning_has_a_next_step() -> None:
    """Whatever is judged below."""
    found = [
        *kernel.judge_kernel(KernelFacts("5.10.0", "no nf_tables", "no conntrack", False)),
        *kernel.judge_cgroups("/sys/fs/cgroup", 9000, 8192),
        *kernel.judge_fill(Fill(95, 100)),
        *kernel.judge_capabilities(0),
        *folder.judge_modes(Entry("/s", 1, 0o755), []),
        *folder.judge_modes(Entry("/s", 1, 0o700), [Entry("/s/hold", 0, 0o600)]),
        *folder.judge_agent(False, {}, NOW),
        *folder.judge_agent(True, {"updated": (NOW - timedelta(minutes=5)).isoformat()}, NOW),
        *folder.judge_version("0.0.9"),
        *(f for step in ("name", "tcp", "tls") for f in channel.judge_reached(Reached("c:1", step, "why"), "", "")),
        *channel.judge_session("", "no session"),
        *table.judge_table(None, POLICY, (), False, ""),
        *table.judge_table(Ruleset(), POLICY, ("chain input is gone",), False, ""),
        *table.judge_table(Ruleset(), None, (), False, ""),
        *table.judge_table(Ruleset(), POLICY, (), True, ""),
        *table.judge_nflog(None, 9),
    ]
    assert len(found) >= 19
    for finding in found:
        assert finding.level in (Level.PROBLEM, Level.WARNING), finding
        assert finding.next, finding


def test_kernels() -> None:
    assert set(levels(kernel.judge_kernel(WELL))) == {Level.OK}
    [old, *_] = kernel.judge_kernel(replace(WELL, release="5.4.0-generic"))
    assert (old.level, "5.12" in old.text) == (Level.PROBLEM, True)
    [debian, *_] = kernel.judge_kernel(replace(WELL, release="6.1.0-18-amd64"))
    assert (debian.level, "undone" in debian.text) == (Level.OK, True)
    unasked = [f for f in kernel.judge_kernel(KernelFacts("6.12.1", None, None, None)) if f.level is Level.UNKNOWN]
    assert [f.check for f in unasked] == ["nftables", "conntrack", "inet-diag"]


def test_limits_are_told_before_they_are_reached() -> None:
    at = [(100, 8192), (7000, 8192), (8192, 8192)]
    assert [levels(kernel.judge_cgroups("/c", *x)) for x in at] == [[Level.OK], [Level.WARNING], [Level.PROBLEM]]
    fills = [Fill(10, 100), Fill(85, 100), Fill(95, 100), Fill(0, 0)]
    expected = [[Level.OK], [Level.WARNING], [Level.PROBLEM], [Level.OK]]
    assert [levels(kernel.judge_fill(f)) for f in fills] == expected
    assert levels(kernel.judge_fill(None)) == [Level.UNKNOWN]


def test_capabilities() -> None:
    assert levels(kernel.judge_capabilities(ALL)) == [Level.OK]
    [less] = kernel.judge_capabilities(1 << kernel.CAPABILITIES["CAP_NET_ADMIN"])
    assert (less.level, "CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH" in less.text) == (Level.WARNING, True)
    assert levels(kernel.judge_capabilities(0)) == [Level.PROBLEM]


def test_the_agent_and_its_words() -> None:
    fresh = {"pid": 7, "state": "generation 7 in force", "updated": NOW.isoformat(), "metrics": "127.0.0.1:7446"}
    assert levels(folder.judge_agent(True, fresh, NOW)) == [Level.OK]
    taken = {**fresh, "metrics": "metrics: cannot listen on 127.0.0.1:7446: Address already in use"}
    assert [f.check for f in folder.judge_agent(True, taken, NOW)] == ["agent", "metrics"]
    assert levels(folder.judge_agent(True, {}, NOW)) == [Level.OK]  # it has just started
    assert list(folder.judge_version("")) == []


def test_identity_and_its_end() -> None:
    identity = Authority().identity("db-1", ("127.0.0.1:1",))
    early = identity.valid_until - timedelta(days=20)
    assert levels(folder.judge_identity(identity, early)) == [Level.OK]
    [soon] = folder.judge_identity(identity, identity.valid_until - timedelta(days=3))
    assert (soon.level, "3 days" in soon.text) == (Level.WARNING, True)
    [over] = folder.judge_identity(identity, identity.valid_until + timedelta(days=1))
    assert (over.level, "expired" in over.text) == (Level.PROBLEM, True)


def test_a_connected_agent_is_believed_more_than_a_connection_of_ours() -> None:
    refused = Reached("ctl:7443", "tcp", "Connection refused")
    assert levels(channel.judge_reached(refused, "ctl:7443", "")) == [Level.OK]
    assert levels(channel.judge_reached(refused, "other:7443", "")) == [Level.PROBLEM]


def test_what_the_table_is_for() -> None:
    assert levels(table.judge_table(None, None, (), False, "")) == [Level.OK]
    assert list(table.judge_table(None, POLICY, (), True, "")) == []  # the release says it
    [open_] = table.judge_table(None, POLICY, (), False, "")
    assert "NOT enforced" in open_.text
    [drifted] = table.judge_table(Ruleset(), POLICY, tuple("abcdefg"), False, "")
    assert "a; b; c; d; e and 2 more" in drifted.text
    [well] = table.judge_table(Ruleset(), POLICY, (), False, "segctl-agent (pid 9)")
    assert (well.level, "owned by segctl-agent (pid 9)" in well.text) == (Level.OK, True)


def test_what_is_on_trial_is_not_taken_for_drift() -> None:
    [finding] = table.judge_trial(8, POLICY)
    assert (finding.level, finding.check) == (Level.UNKNOWN, "table")
    assert "generation 8 is on trial" in finding.text
    assert "generation 7 comes back" in finding.text


def test_neighbours_that_interfere_are_warnings() -> None:
    where = Where("ip", "mangle", "OUTPUT")
    harm = Foreign(where, Weight.INTERFERES, "writes our bits of the conntrack mark")
    note = Foreign(where, Weight.INFORMS, "drops by policy")
    assert levels(table.judge_others((note,))) == [Level.OK]
    assert levels(table.judge_others((note, harm))) == [Level.WARNING]
    many = tuple(replace(harm, what=f"{n}") for n in range(9))
    assert levels(table.judge_others(many)) == [Level.WARNING] * 6


@pytest.fixture
def state(tmp_path: Path) -> Path:
    where = tmp_path / "state"
    where.mkdir(mode=0o700)
    save_identity(where, Authority().identity("db-1", ("127.0.0.1:1",)))
    return where


def test_a_folder_that_is_well(state: Path) -> None:
    StateFolder(state).write_generation(POLICY, (1, 1))
    found = [*folder.look_folder(state), *folder.look_identity(state, datetime.now(UTC))[0]]
    found += folder.look_generation(StateFolder(state))
    assert [(f.check, f.level) for f in found] == [
        ("state", Level.OK),
        ("disk", Level.OK),
        ("identity", Level.OK),
        ("generation", Level.OK),
    ]


def test_what_is_wrong_with_a_folder(state: Path, tmp_path: Path) -> None:
    [absent] = folder.look_folder(tmp_path / "nothing")
    assert absent.next.startswith("segctl-agent enrol")
    state.chmod(0o755)
    assert next(folder.look_folder(state)).next == f"chmod 700 {state}"
    state.chmod(0o700)
    (state / "identity" / "key.pem").chmod(0o644)
    [finding], identity = folder.look_identity(state, NOW)
    assert (finding.level, identity) == (Level.PROBLEM, None)
    assert "can be read by others" in finding.text
    home = StateFolder(state)
    assert levels(folder.look_generation(home)) == [Level.WARNING]  # no policy yet
    home.write_generation(POLICY, (1, 1))
    home.write_generation(replace(POLICY, generation=8), (1, 1))
    (state / "generation.0").write_bytes(b"damaged")
    assert levels(folder.look_generation(home)) == [Level.WARNING]
    (state / "generation.1").write_bytes(b"damaged")
    assert levels(folder.look_generation(home)) == [Level.PROBLEM]
    home.hold("released by alice")
    assert [f.check for f in folder.look_generation(home)] == ["release", "generation"]


def test_looking_changes_nothing(state: Path) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in state.rglob("*"))
    home = StateFolder(state)
    assert folder.agent_pid(home) == 0
    for look in (folder.look_folder(state), folder.look_agent(home, NOW), folder.look_gate(home)):
        list(look)
    (state / "identity").rename(state / "identity.old")
    [finding], _ = folder.look_identity(state, NOW)
    assert finding.level is Level.PROBLEM
    assert (state / "identity.old").exists()  # a replacement that was cut off is the agent's to mend
    (state / "identity.old").rename(state / "identity")
    assert sorted((p, p.stat().st_mtime_ns) for p in state.rglob("*")) == before


def test_how_far_a_connection_comes(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = state / "identity"
    assert channel.reach(identity, "nowhere.invalid:1", [], 0).step == "name"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        refused = channel.reach(identity, f"127.0.0.1:{port}", ["127.0.0.1"], 0)
        assert (refused.step, "refused" in refused.why) == ("tcp", True)
        listener.listen()
        monkeypatch.setattr(channel, "SECONDS", 0.2)
        mute = channel.reach(identity, f"127.0.0.1:{port}", ["127.0.0.1"], 0)
        assert mute.step == "tls"
