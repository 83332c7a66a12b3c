"""The map as a graph: well-formed whatever is in it, and the same whatever order it came in. How ends are written."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.cli.mapsearch import EndWanted, parse_end
from segctl.cli.output import plain
from segctl.cli.output_map import dot_lines, name_of, quoted, render_map
from segctl.cli.views_map import FlowMap, MapComparison, MapEdge, MapEnd, MapReason, MapVerdicts

from tests.unit.segctl.cli import samples as s

STRING = r'"(?:[^"\\]|\\.)*"'
ATTRIBUTE = rf"(?:\w+=(?:{STRING}|[\w.]+))"
ATTRIBUTES = rf"(?: \[{ATTRIBUTE}(?:, {ATTRIBUTE})*\])?"
STATEMENT = re.compile(rf"  (?:{STRING}(?: -> {STRING})?|node|edge|rankdir=LR){ATTRIBUTES};")
names = st.text(st.characters(codec="utf-8"), max_size=12)
ends = st.one_of(
    st.builds(MapEnd, st.dictionaries(names, names, max_size=2)),
    st.builds(MapEnd, st.none(), peer=names, network=names),
    st.builds(MapEnd, st.just({}), host=names, workload=names, process=names),
)
verdicts = st.sampled_from(["allowed", "not-covered", "would-deny", "denied", "a verdict of later"])
edges = st.builds(
    lambda source, destination, service, verdict, flows: replace(
        s.MAP.edges[0], source=source, destination=destination, service_name=service, verdict=verdict, flows=flows
    ),
    ends,
    ends,
    names,
    verdicts,
    st.integers(0, 2**53),
)


@given(st.lists(edges, max_size=5))
def test_a_graph_is_well_formed_and_in_one_order(drawn: list[MapEdge]) -> None:
    lines = list(dot_lines(FlowMap(tuple(drawn))))
    assert (lines[0], lines[-1]) == ("digraph segctl {", "}")
    for text in lines[1:-1]:
        assert STATEMENT.fullmatch(text), text
        assert text.isprintable()
    assert lines == list(dot_lines(FlowMap(tuple(reversed(drawn)))))
    declared = {found[1] for text in lines if (found := re.match(rf"  ({STRING})(?! ->)", text))}
    assert {quoted(name_of(end)) for edge in drawn for end in (edge.source, edge.destination)} == declared


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("env=prod, role=web", EndWanted({"env": "prod", "role": "web"})),
        ("host:web1,workload:shop-web", EndWanted(host="web1", workload="shop-web")),
        ("process:unit:nginx.service", EndWanted(process="unit:nginx.service")),
        ("outside", EndWanted(outside=True, peer="any")),
        ("peer:office", EndWanted(outside=True, peer="office")),
        ("203.0.113.9", EndWanted(outside=True, peer="any", network="203.0.113.9/32")),
        ("peer:office,2001:db8::1/48", EndWanted(outside=True, peer="office", network="2001:db8::/48")),
    ],
)
def test_ends(text: str, end: EndWanted) -> None:
    assert parse_end(text) == end


@pytest.mark.parametrize("text", ["office", "role=web,outside", "peer:office,host:web1", "host:", "1.2.3"])
def test_what_is_no_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no end is both|is no end"):
        parse_end(text)


def test_after_a_push_there_is_nothing_to_compare_yet_instead_of_four_zeros() -> None:
    fresh = replace(s.MAP, edges=tuple(replace(edge, comparison=MapComparison()) for edge in s.MAP.edges))
    text = plain(render_map(fresh, s.NOW, 100))
    assert "Nothing to compare with it yet: from 2026-11-22 02:04:05 on\n" in text
    assert "escaped" not in text


def test_what_a_boundary_denies_where_hosts_observe_is_not_called_a_gap() -> None:
    def told(*reasons: MapReason) -> str:
        edge = replace(s.MAP.edges[0], verdict="not-covered", verdicts=MapVerdicts(not_covered=5), reasons=reasons)
        return plain(render_map(FlowMap((edge,)), s.NOW, 120))

    boundary = MapReason("destination", "not-covered", "boundary", "pci", 5)
    default = MapReason("source", "not-covered", "default", "", 5)
    assert "denied, only observed: pci" in told(boundary)
    assert "no rule: pci" in told(boundary, default)
    assert "no rule" in told(default)
