"""A fleet's certificates over weeks, with the real agent, the real controller and real TLS: the tests themselves are in
clocked_certificates.py, in a process whose clock they move."""

from __future__ import annotations

from pathlib import Path

from tests.clock import run_under_a_moved_clock


def test_under_a_moved_clock(tmp_path: Path) -> None:
    run_under_a_moved_clock(Path(__file__).with_name("clocked_certificates.py"), tmp_path)
