"""The bench on the real kernel: it measures, and what it measures can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bench.sandbox import cgroup2_root, remove_cgroups

pytestmark = pytest.mark.kernel

_WITHOUT_RULES = """
import sys, time
from pathlib import Path
from bench.policies import OTHER_UNIT, SERVER_UNIT, make_units, unit_path
from bench.probing import Prober
from bench.sandbox import enter_sandbox
from bench.wire import Wire
enter_sandbox(Path(sys.argv[1]))
make_units((SERVER_UNIT, OTHER_UNIT))
with Wire() as wire, Prober(wire, unit_path(SERVER_UNIT), unit_path(OTHER_UNIT)) as prober:
    while prober.running and prober.probes < 2000:
        time.sleep(0.01)
    counts, _ = prober.finish()
print(counts.denied, counts.wrongly_allowed, counts.wrongly_dropped, counts.stalled)
"""

_LOSSY = """
import sys, time
from pathlib import Path
from bench.policies import CLIENT_UNIT, SERVER_UNIT, make_units
from bench.sandbox import enter_sandbox, run_nft
from bench.sessions import Sessions, lost
from bench.wire import Wire, client_address
enter_sandbox(Path(sys.argv[1]))
make_units((SERVER_UNIT, CLIENT_UNIT))
with Wire() as wire:
    for port, dropped in ((8070, True), (8090, False)):
        if dropped:
            with wire.server.entered():
                rule = f"tcp dport {port} numgen inc mod 50 == 0 drop"
                run_nft(f"table inet lossy {{ chain in {{ type filter hook input priority 0; {rule}; }}; }}")
        with Sessions(wire, SERVER_UNIT, CLIENT_UNIT, port, str(client_address(0))) as sessions:
            sessions.open()
            time.sleep(1)
            server, client = sessions.close()
        print(lost(client, server), lost(server, client))
"""


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], text=True, capture_output=True, check=False, timeout=100)


def test_a_quick_run_measures_what_the_sandbox_can(tmp_path):
    chosen = [word for name in ("connections", "atomicity", "revocation", "applying") for word in ("--only", name)]
    done = _run("-m", "bench", "--quick", *chosen, "--out", str(tmp_path / "bench.json"))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "bench.json").read_text())}
    assert all(set(row) == {"name", "value", "unit", "goal", "holds", "how"} for row in rows.values())
    assert rows["atomicity: wrongly allowed"]["value"] == 0
    assert rows["atomicity: updates"]["value"] >= 45
    assert rows["session revoked: others that were disturbed"]["value"] == 0
    for peer in ("firewalld", "ufw", "iptables-nft"):
        assert rows[f"new connections, ours with 10k entries, over {peer} with 1k rules"]["value"] > 0
    assert 0.5 < rows["new connections, the floor over itself: what this run can resolve"]["value"] < 2
    assert rows["full load until it is proven, over bare packer, 1k addresses"]["value"] > 1


def test_without_rules_the_probes_count_every_denied_connection_as_wrongly_allowed(tmp_path):
    cgroup = cgroup2_root() / f"segctl-bench-test-{os.getpid()}"
    try:
        done = _run("-c", _WITHOUT_RULES, str(cgroup))
    finally:
        remove_cgroups(cgroup)
    assert done.returncode == 0, done.stderr
    denied, wrongly_allowed, wrongly_dropped, stalled = map(int, done.stdout.split())
    assert denied == wrongly_allowed > 1000
    assert (wrongly_dropped, stalled) == (0, 0)


def test_the_sessions_tell_a_lost_segment_and_its_direction():
    cgroup = cgroup2_root() / f"segctl-bench-lossy-{os.getpid()}"
    try:
        done = _run("-c", _LOSSY, str(cgroup))
    finally:
        remove_cgroups(cgroup)
    assert done.returncode == 0, done.stderr
    (to_server, to_client), whole = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    assert to_server > 0 == to_client
    assert whole == (0, 0)
