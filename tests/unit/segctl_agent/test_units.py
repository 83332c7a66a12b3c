"""What the systemd units promise about their order."""

from __future__ import annotations

from pathlib import Path

UNITS = Path(__file__).parents[3] / "systemd"


def setting(unit: str, name: str) -> set[str]:
    lines = (UNITS / unit).read_text().splitlines()
    return {word for line in lines if line.startswith(f"{name}=") for word in line.partition("=")[2].split()}


def test_the_rules_are_loaded_between_a_flush_of_the_ruleset_and_the_network() -> None:
    """nftables.service runs `flush ruleset`: after ours, it would leave the host open until the agent runs."""
    assert "nftables.service" in setting("segctl-agent-boot.service", "After")
    assert "network-pre.target" in setting("segctl-agent-boot.service", "Before")
    assert "segctl-agent-boot.service" in setting("segctl-agent.service", "After")
