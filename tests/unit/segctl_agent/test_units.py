"""What the systemd units promise about their order."""

from __future__ import annotations

from pathlib import Path

from segctl_agent.execgate.targets import FILE
from segctl_agent.main import DEFAULT_STATE

UNITS = Path(__file__).parents[3] / "systemd"


def setting(unit: str, name: str) -> set[str]:
    lines = (UNITS / unit).read_text().splitlines()
    return {word for line in lines if line.startswith(f"{name}=") for word in line.partition("=")[2].split()}


def test_the_rules_are_loaded_between_a_flush_of_the_ruleset_and_the_network() -> None:
    """nftables.service runs `flush ruleset`: after ours, it would leave the host open until the agent runs."""
    assert "nftables.service" in setting("segctl-agent-boot.service", "After")
    assert "network-pre.target" in setting("segctl-agent-boot.service", "Before")
    assert "segctl-agent-boot.service" in setting("segctl-agent.service", "After")


def test_the_exec_gate_starts_with_the_list_that_the_agent_leaves() -> None:
    (path,) = setting("segctl-exec-gate.path", "PathExists")
    assert path == str(DEFAULT_STATE / FILE)
    assert str(DEFAULT_STATE) in setting("segctl-exec-gate.service", "ExecStart")
