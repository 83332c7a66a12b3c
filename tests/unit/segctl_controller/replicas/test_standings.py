"""A standing as text, and back."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from segctl.errors import StateError
from segctl_controller.contest import Origin
from segctl_controller.fleet import Refusal, Standing
from segctl_controller.replicas.standings import Told, standing_of, standing_text
from segctl_controller.store.records import ProofRecord

FULL = Standing(
    connected=True,
    proof=ProofRecord("web1", 7, "d", "k", 5),
    refusal=Refusal("e", ("no memory", "nor disk")),
    staged="s",
    stored="t",
    ended=(6, "a flow broke"),
    holds=7,
    notes=("no user mallory",),
    refused_addresses=((ip_address("10.0.0.9"), "db1 holds it"), (ip_address("2001:db8::1"), "so too")),
    released="released by root",
)
ORIGIN = Origin(ip_address("192.0.2.7"), "boot", frozenset({ip_address("10.0.0.1"), ip_address("2001:db8::2")}))


@pytest.mark.parametrize("told", [Told(FULL, ORIGIN, 3), Told(Standing(), Origin(), 0)])
def test_what_comes_back_is_what_was_told(told: Told) -> None:
    assert standing_of("web1", standing_text(told)) == told


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"proof": [1]}', standing_text(Told(FULL, ORIGIN, 3))[:-9] + "}"])
def test_what_another_version_wrote_is_refused(text: str) -> None:
    with pytest.raises(StateError, match="host web1: another controller wrote its standing"):
        standing_of("web1", text)
