"""Text and netlink say the same: nft loads our text in one namespace, netlink our values in another, and what the
kernel then holds is equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from segctl_agent.nft import statements as s
from segctl_agent.nft.kernel import NetlinkKernel
from segctl_agent.nft.library import chain_lines, load_text
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import ACCEPT, DROP, Chain, Counts, KeyType, NftSet, Rule, Ruleset, SetSpec, goto
from segctl_agent.nft.text import to_text
from segctl_agent.render import render
from segctl_agent.render.ends import denied_spec

from tests.decided import decided, rendered
from tests.netns.samples import SAMPLES, SHOP_FACTS
from tests.netns.spaces import Space

pytestmark = pytest.mark.kernel


def by_text(space: Space, wanted: Ruleset, paths: dict[int, str]) -> Ruleset | None:
    def load() -> Ruleset | None:
        script = to_text(wanted, paths)
        load_text(script)
        return plain(NetlinkKernel().read())

    return space.run(load)


def plain(ruleset: Ruleset | None) -> Ruleset | None:
    """The same in dictionaries, which travel between processes."""
    if ruleset is None:
        return None
    sets = {name: NftSet(s.spec, dict(s.elements)) for name, s in ruleset.sets.items()}
    return Ruleset(dict(ruleset.chains), sets, ruleset.flags, ruleset.foreign, ruleset.counters)


def same(space: Space, other: Space, wanted: Ruleset, paths: dict[int, str]) -> None:
    def by_netlink() -> Ruleset | None:
        kernel = NetlinkKernel()
        kernel.apply(plan(kernel.read(), wanted))
        return plain(kernel.read())

    text, netlink = by_text(space, wanted, paths), other.run(by_netlink)
    assert text is not None
    assert netlink is not None
    assert netlink == wanted
    assert text.sets == netlink.sets
    for name, chain in netlink.chains.items():
        for number, rule in enumerate(chain.rules):
            assert text.chains[name].rules[number] == rule, f"{name}: {wanted.chains[name].rules[number].text}"
    assert text == netlink


@pytest.fixture
def other() -> object:
    made = Space("other")
    yield made
    made.close()


@pytest.mark.parametrize("name", SAMPLES)
def test_rendered_rulesets(space: Space, other: Space, name: str) -> None:
    # The cgroups of both spaces must have one id: both load under the first one's mount.
    cgroups = {path: space.cgroup(path) for path in SHOP_FACTS.cgroups}
    facts = replace(SHOP_FACTS, cgroups=cgroups)
    paths = {number: path for path, number in cgroups.items()}
    same(space, other, render(SAMPLES[name], facts, decided(SAMPLES[name], 40)), paths)


STATEMENTS: dict[str, Callable[[], s.Statement]] = {
    "accept": lambda: s.verdict(ACCEPT),
    "drop": lambda: s.verdict(DROP),
    "goto": lambda: s.verdict(goto("other")),
    "iif": lambda: s.interface("iif"),
    "oif": lambda: s.interface("oif"),
    "state": lambda: s.ct_state("new", "invalid"),
    "reply": s.ct_reply,
    "mark is": lambda: s.ct_mark_is(0xFFF00000, 0x12300000),
    "mark set": lambda: s.ct_mark_set(0xFFF00000, 0x12300000),
    **{p: (lambda p=p: s.protocol(p)) for p in s.PROTOCOL_NUMBERS},
    "tcp port": lambda: s.destination_port("tcp", 1, 1),
    "udp ports": lambda: s.destination_port("udp", 1000, 65535),
    "both ports": lambda: s.udp_ports(67, 68),
    "icmp type": lambda: s.icmp_type(8, 8, version=4),
    "icmpv6 types": lambda: s.icmp_type(1, 255, version=6),
    "source": lambda: s.address_is("saddr", s.IPv4Address("10.1.2.3")),
    "in v4": lambda: s.address_in("saddr", "a4", version=4),
    "in v6": lambda: s.address_in("daddr", "n6", version=6),
    "flow v4": lambda: s.flow_in("daddr", "f4", version=4),
    "flow v6": lambda: s.flow_in("saddr", "f6", version=6),
    "address map": lambda: s.address_verdict("saddr", "v4", version=4),
    "opened from": lambda: s.original_address_in("saddr", "a4", version=4),
    "opened to": lambda: s.original_address_in("daddr", "n6", version=6),
    "opened to a port": lambda: s.original_port("tcp", 80, 80),
    "opened to ports": lambda: s.original_port("udp", 80, 90),
    "in by": lambda: s.interface_is("iifname", "podman0"),
    "out by": lambda: s.interface_is("oifname", "br-0123456789ab"),
    "uid": lambda: s.uid_is(33),
    "syn": s.tcp_syn,
    "no syn": s.tcp_without_syn,
    "no syn by the byte": s.flags_without_syn,
    "port of tcp": lambda: s.tcp_port(22, 23),
    "reset": s.tcp_reset,
    "not udp": lambda: s.protocol_not("udp"),
    "source port": lambda: s.source_port("udp", 53, 60),
    "mark map": lambda: s.ct_mark_verdict(0x000FFF00, "m"),
    "before": lambda: s.before(1_798_761_600),
    "count": lambda: s.count("r_in_web-db"),
    "counted v4": lambda: s.flow_counted("saddr", "o4", version=4),
    "counted v6": lambda: s.flow_counted("daddr", "o6", version=6, port="sport"),
    "in a counting map": lambda: s.flow_in("saddr", "o4", version=4, port="sport"),
    "uid map": lambda: s.uid_verdict("u"),
    "gid map": lambda: s.gid_verdict("g"),
    "cgroup map": lambda: s.cgroup_verdict(8, "c"),
    "cgroup exists": lambda: s.cgroup_exists(1, "nothing"),
    "broadcast": s.not_to_this_host,
    "limit": lambda: s.limit(5, 7),
    "log": lambda: s.log("segctl 1 in deny " + "x" * 40, 1510, 96),
    "limit over": lambda: s.limit(5, 7, over=True),
    "tcp or udp": s.tcp_or_udp,
    "denied v4": lambda: s.counted_over("saddr", "d4", 1, 2, version=4),
    "denied v6": lambda: s.counted_over("daddr", "d6", 3, 4, version=6),
    "counter": s.counter,
    "prohibited": s.reject_prohibited,
}


def test_every_statement_alone(space: Space, other: Space) -> None:
    flow = (KeyType.INET_PROTO, KeyType.INET_SERVICE)
    ports = (KeyType.INET_SERVICE, KeyType.INET_SERVICE)
    sets = {
        "a4": NftSet(SetSpec((KeyType.IPV4_ADDR,), size=64), {b"\x0a\0\0\1": None}),
        "n6": NftSet(SetSpec((KeyType.IPV6_ADDR,), interval=True), {b"\xfd" + bytes(15) + b"\xfe" * 16: None}),
        "f4": NftSet(SetSpec((KeyType.IPV4_ADDR, *flow)), {b"\x0a\0\0\1\6\0\0\0\0\x50\0\0": None}),
        "f6": NftSet(SetSpec((KeyType.IPV6_ADDR, *flow)), {b"\xfd" * 16 + b"\x11\0\0\0\0\x35\0\0": None}),
        "o4": NftSet(
            SetSpec((KeyType.IPV4_ADDR, *flow), size=64, counts=True),
            {b"\x0a\0\0\1\6\0\0\0\0\x50\0\0": Counts("r_in_web-db")},
        ),
        "o6": NftSet(SetSpec((KeyType.IPV6_ADDR, *flow), counts=True)),
        "m": NftSet(SetSpec((KeyType.MARK,), verdicts=True), {b"\1\0\0\0": ACCEPT, b"\2\0\0\0": goto("other")}),
        "u": NftSet(SetSpec((KeyType.UID,), verdicts=True), {b"\x21\0\0\0": DROP}),
        "g": NftSet(SetSpec((KeyType.GID,), verdicts=True), {b"\4\0\0\0": DROP}),
        "c": NftSet(SetSpec((KeyType.CGROUPSV2,), verdicts=True)),
        "nothing": NftSet(SetSpec((KeyType.CGROUPSV2,))),
        "v4": NftSet(SetSpec((KeyType.IPV4_ADDR,), verdicts=True), {b"\x0a\0\0\1": goto("other")}),
        "d4": NftSet(denied_spec(4)),
        "d6": NftSet(denied_spec(6)),
        "again4": NftSet(SetSpec((KeyType.IPV4_ADDR, *ports), size=64, timeout_ms=3000)),
        "again6": NftSet(SetSpec((KeyType.IPV6_ADDR, *ports), size=64, timeout_ms=1500)),
    }
    rules = (
        *(Rule.of(make()) for make in STATEMENTS.values()),
        Rule.of(s.protocol("tcp"), s.reject_reset()),
        *(Rule.of(s.tcp_syn(), s.connection_in(f"again{v}", version=v)) for v in s.VERSIONS),
        *(Rule.of(s.tcp_syn(), s.connection_add(f"again{v}", version=v), s.verdict(DROP)) for v in s.VERSIONS),
    )
    same(
        space, other, Ruleset({"every": Chain(rules), "other": Chain()}, sets, counters=frozenset({"r_in_web-db"})), {}
    )


def test_an_id_without_a_path_is_a_comment_in_the_text() -> None:
    wanted = Ruleset({"w": Chain()}, {"c": NftSet(SetSpec((KeyType.CGROUPSV2,), verdicts=True), {bytes(8): goto("w")})})
    assert "# cgroup 0 : goto w" in to_text(wanted)
    assert '"a.slice" : goto w' in to_text(wanted, {0: "a.slice"})


def test_libnftables_gives_words_to_every_rule(space: Space) -> None:
    def listed() -> list[tuple[str, int, int]]:
        kernel = NetlinkKernel()
        kernel.apply(plan(kernel.read(), rendered(SAMPLES["shop"], SHOP_FACTS, 1)))
        load_text('add rule inet segctl input tcp dport 4444 accept comment "not ours"')
        held = kernel.read()
        assert held is not None
        assert any("tcp dport 4444 accept" in line for line in chain_lines("input"))
        return [(name, len(chain.rules), len(chain_lines(name))) for name, chain in held.chains.items()]

    for name, rules, lines in space.run(listed):
        assert rules == lines, name
