"""Names of units, and where systemd puts their cgroups."""

from __future__ import annotations

import pytest
from segctl.model.units import escape, names_for_socket, prepared_slice, slices_of


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("a.slice/a-b.slice/a-b-c.slice/x.service", 3),
        ("a.slice/b.slice", 1),
        ("a-b.slice", 0),
        ("a.slice/a-b-c.slice", 1),
        ("a.slice/a.slice", 1),
        ("a.slice/a-.slice", 1),
        (".slice", 0),
        ("-.slice", 0),
        ("x.service/a.slice", 0),
        ("seg.slice/seg-shop\\x2ddb.slice", 2),
    ],
)
def test_slices_count_only_where_systemd_puts_them(path: str, count: int) -> None:
    assert slices_of(path.split("/")) == path.split("/")[:count]


def test_names_for_a_socket() -> None:
    assert names_for_socket("a.service") == ("a.service",)
    assert names_for_socket("a.socket") == ("a.socket", "a.service", "a@.service")
    assert names_for_socket("a@1.socket") == ("a@1.socket", "a@1.service")


def test_the_slice_of_a_workload_lies_in_seg_slice() -> None:
    assert prepared_slice("shop-db") == "seg-shop\\x2ddb.slice"
    assert prepared_slice("web.v2_a") == "seg-web.v2_a.slice"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("shop-db", "shop\\x2ddb"),
        (".a.b", "\\x2ea.b"),
        ("a_b:c", "a_b:c"),
        ("-", "\\x2d"),
        ("a@b", "a\\x40b"),
        ("a\\b", "a\\x5cb"),
        ("\u00e9", "\\xc3\\xa9"),
    ],
)
def test_escaped_as_systemd_does(text: str, escaped: str) -> None:
    """What systemd-escape 252 answers."""
    assert escape(text) == escaped
