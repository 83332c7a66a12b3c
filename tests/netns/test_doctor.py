"""segctl-agent doctor, its logs and its pages, of a real agent on the real kernel, and with a real journald.

Each test is a host of its own: network, mount and cgroup namespaces.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from segctl_agent.credentials import save_identity

from tests.netns.spaces import CGROUPS, in_namespaces, run
from tests.netns.test_agent_process import AGENT, POLICY, enrolled, start, until
from tests.unit.segctl_agent.pki import Authority

pytestmark = pytest.mark.kernel

JOURNALD = Path("/usr/lib/systemd/systemd-journald")
METRICS = "http://127.0.0.1:7446"


def doctor(folder: Path, **how: Any) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code, and of each check its worst level with its text."""
    done = subprocess.run(
        [AGENT, "doctor", "--state", str(folder), "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **how,
    )
    assert done.stdout, done.stderr
    found: dict[str, tuple[str, str]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        found.setdefault(finding["check"], (finding["level"], finding["text"]))
        if finding["level"] == "problem":
            assert finding["next"]
            found[finding["check"]] = ("problem", finding["text"])
    return done.returncode, found


def status(folder: Path) -> dict[str, Any]:
    path = folder / "status.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def get(path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(METRICS + path, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def without_systemd() -> None:
    """This machine's own, where it has one, knows of no agent that a test starts."""
    if Path("/run/systemd").exists():
        run("mount", "-t", "tmpfs", "tmpfs", "/run/systemd")


def test_a_host_from_well_to_ill(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def host() -> None:
        without_systemd()
        enrolled(folder)
        save_identity(folder, replace(Authority().identity("db-1", ("127.0.0.1:1",)), enrolment=("127.0.0.1:2",)))
        (CGROUPS / "system.slice" / "db.service").mkdir(parents=True)
        process = start(folder)
        until(lambda: status(folder).get("problem"), 20)
        code, found = doctor(folder)
        assert code == 3  # it has no controller
        assert {check for check, (level, _) in found.items() if level == "problem"} == {"controller", "session"}
        for check in ("nftables", "conntrack", "cgroups", "state", "identity", "generation", "agent", "table", "nflog"):
            assert found[check][0] == "ok", found[check]
        assert "holds generation 5" in found["table"][1]
        assert found["capabilities"][0] == "ok"
        assert get("/readyz") == (200, "ok\n")
        assert "segctl_agent_generation 5.0" in get("/metrics")[1]
        assert "web-to-db" not in get("/metrics")[1]

        run(AGENT, "release", "--state", str(folder))
        until(lambda: get("/readyz")[0] == 503)
        assert get("/readyz")[1] == "released: nothing is enforced\n"
        assert doctor(folder)[1]["release"][0] == "problem"
        run(AGENT, "load", "--state", str(folder))
        until(lambda: get("/readyz")[0] == 200)

        process.kill()
        process.wait(10)
        code, found = doctor(folder)
        assert found["agent"][0] == "problem"
        assert "does not run" in found["agent"][1]
        assert found["table"][0] == "ok"  # the rules stay
        unit = CGROUPS / "system.slice" / "late.service"
        unit.mkdir()
        code, found = doctor(folder)
        assert found["table"] == ("problem", found["table"][1])
        assert "cgroups are missing" in found["table"][1]
        unit.rmdir()

    in_namespaces(host)


def test_drift_is_found_object_by_object(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def host() -> None:
        enrolled(folder)
        process = start(folder, "--table-guard", "watch", "--metrics", "off")
        process.kill()
        process.wait(10)
        assert doctor(folder)[1]["table"][0] == "ok"
        run("nft", "insert", "rule", "inet", "segctl", "input", "accept")
        level, text = doctor(folder)[1]["table"]
        assert (level, "the rules of chain input were changed" in text) == ("problem", True)
        run("nft", "add table inet other; add chain inet other out { type filter hook output priority 0; }")
        run("nft", "add rule inet other out ct mark set 1")
        level, text = doctor(folder)[1]["neighbours"]
        assert (level, "writes our bits" in text) == ("warning", True)
        run("nft", "delete", "table", "inet", "segctl")
        level, text = doctor(folder)[1]["table"]
        assert (level, "NOT enforced" in text) == ("problem", True)

    in_namespaces(host)


def test_what_an_ordinary_user_cannot_look_at_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def host() -> None:
        without_systemd()
        enrolled(folder)
        for parent in (tmp_path, *tmp_path.parents[:3]):
            if parent != Path("/tmp"):
                parent.chmod(0o755)
        code, found = doctor(folder, user=65534, group=65534, extra_groups=[])
        assert code == 0  # no problem that it knows of
        assert {c for c, (level, _) in found.items() if level == "unknown"} >= {
            "nftables",
            "conntrack",
            "state",
            "identity",
            "agent",
            "neighbours",
            "nflog",
        }
        assert "table" not in found

    in_namespaces(host)


def test_a_taken_port_keeps_no_agent_from_enforcing(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def host() -> None:
        enrolled(folder)
        squatter = subprocess.Popen([sys.executable, "-m", "http.server", "7446", "--bind", "127.0.0.1"])
        until(lambda: run("ss", "-Hltn", "sport = :7446"))
        process = start(folder)
        until(lambda: (folder / "status.json").exists())
        found = doctor(folder)[1]
        assert found["metrics"][0] == "warning"
        assert "Address already in use" in found["metrics"][1]
        assert found["table"][0] == "ok"
        assert "state: metrics: cannot listen on 127.0.0.1:7446" in (folder / "log").read_text()
        for running in (process, squatter):
            running.kill()
            running.wait(10)

    in_namespaces(host)


def test_a_real_journald_has_the_fields(tmp_path: Path) -> None:
    assert JOURNALD.exists(), f"{JOURNALD} is missing: these tests need Debian's package systemd"
    folder = tmp_path / "state"

    def host() -> list[dict[str, Any]]:
        enrolled(folder)
        run("mount", "-t", "tmpfs", "none", "/run")
        for name in ("log/journal", "systemd/journal"):
            (Path("/run") / name).mkdir(parents=True)
        run("mount", "-t", "tmpfs", "none", "/var/log")
        journald = subprocess.Popen([JOURNALD], stderr=subprocess.DEVNULL)
        until(lambda: Path("/run/systemd/journal/socket").exists())
        log = folder / "log"
        log.touch()
        os.environ["JOURNAL_STREAM"] = f"{log.stat().st_dev}:{log.stat().st_ino}"
        process = start(folder, "--table-guard", "watch")
        run("nft", "delete", "table", "inet", "segctl")

        def entries() -> list[dict[str, Any]]:
            text = run("journalctl", "--directory=/run/log/journal", "-t", "segctl-agent", "-o", "json")
            return [json.loads(line) for line in text.splitlines()]

        until(lambda: any(e.get("SEGCTL_EVENT") == "tamper" for e in entries()), 20)
        process.terminate()
        process.wait(10)
        until(lambda: any(e.get("SEGCTL_EVENT") == "stopped" for e in entries()))
        found = entries()
        journald.terminate()
        journald.wait(10)
        assert log.read_text() == ""  # nothing is told twice
        return found

    found = {e["SEGCTL_EVENT"]: e for e in in_namespaces(host) if "SEGCTL_EVENT" in e}
    assert {"policy", "ready", "tamper", "stopped"} <= found.keys()
    assert {e["SEGCTL_HOST"] for e in found.values()} == {"db-1"}
    policy = found["policy"]
    assert (policy["SEGCTL_GENERATION"], policy["SEGCTL_DIGEST"]) == ("5", POLICY.policy_digest)
    assert int(policy["SEGCTL_DURATION_US"]) > 0
    assert (policy["PRIORITY"], policy["_TRANSPORT"]) == ("6", "journal")
    tamper = found["tamper"]
    assert (tamper["PRIORITY"], tamper["SEGCTL_CULPRIT"]) == ("4", "nft")
    assert "the table is gone" in tamper["MESSAGE"]
    assert abs(int(tamper["__REALTIME_TIMESTAMP"]) / 1e6 - time.time()) < 120
