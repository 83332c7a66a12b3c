"""plan: for any two rulesets the operations turn the first into the second, and every one is legal when it comes."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from hypothesis import given, settings
from hypothesis import strategies as st
from segctl_agent.nft import statements as s
from segctl_agent.nft.digest import kernel_digest
from segctl_agent.nft.kernel import FakeKernel
from segctl_agent.nft.messages import encode
from segctl_agent.nft.operations import AddChain, AddElements, AddTable, DeleteChain, DeleteElements, FlushChain
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import (
    ACCEPT,
    DROP,
    INPUT,
    OUTPUT,
    BaseHook,
    Chain,
    Counts,
    Data,
    Foreign,
    ForeignKind,
    KeyType,
    NftSet,
    Odd,
    Rule,
    Ruleset,
    SetSpec,
    goto,
)

from tests.decided import rendered
from tests.netns.samples import SAMPLES, SHOP, SHOP_FACTS

CHAINS, SETS, COUNTERS = ("a", "b", "c", "d"), ("s", "t", "u"), ("k", "l")
KEYS = [bytes([10, 0, 0, i]) for i in range(5)]
KINDS = ({}, {"verdicts": True}, {"counts": True}, {"interval": True}, {"verdicts": True, "interval": True})
specs = st.builds(
    lambda kind, size: SetSpec((KeyType.IPV4_ADDR,), size=size, **kind), st.sampled_from(KINDS), st.sampled_from((0, 8))
)


@st.composite
def rulesets(draw: st.DrawFn, *, foreign: bool = False) -> Ruleset:
    """Any table in which everything that is referred to exists. `foreign`: as a stranger may leave it."""
    names = draw(st.lists(st.sampled_from(CHAINS), unique=True))
    counters = draw(st.lists(st.sampled_from(COUNTERS), unique=True))
    drawn = draw(st.lists(st.sampled_from(SETS), unique=True))
    sets = {n: _set(draw, draw(specs), names, counters, odd=foreign) for n in drawn}
    strangers = draw(st.sets(st.sampled_from(SETS))) - sets.keys() if foreign else set()
    statements = [s.verdict(ACCEPT), s.counter(), *(s.verdict(goto(n)) for n in names)]
    statements += [s.address_in("saddr", n, version=4) for n in (*sets, *strangers)]
    statements += [s.count(n) for n in counters]
    hooks = st.sampled_from((None, None, INPUT, OUTPUT, BaseHook(1, drop=False), BaseHook(1, priority=5)))
    chains = {}
    for name in names:
        rules = draw(st.lists(st.lists(st.sampled_from(statements), min_size=1, max_size=2), max_size=3))
        chains[name] = Chain(tuple(Rule.of(*r) for r in rules), draw(hooks))
    found = {Foreign(n, ForeignKind.SET) for n in strangers}
    if foreign and draw(st.booleans()):
        found |= {Foreign("o", ForeignKind.OBJECT, 1), Foreign("f", ForeignKind.FLOWTABLE)}
    flags = draw(st.sampled_from((0, 1))) if foreign else 0
    return Ruleset(chains, sets, flags, frozenset(found), frozenset(counters))


def _set(draw: st.DrawFn, spec: SetSpec, chains: list[str], counters: list[str], *, odd: bool) -> NftSet:
    keys = [k + k for k in KEYS] if spec.interval else KEYS
    data: list[Data] = [ACCEPT, DROP, *map(goto, chains)] if spec.verdicts else [None]
    if spec.counts:
        data = [*map(Counts, counters)]
    if odd:
        data.append(Odd(b"?"))
        keys = [*keys, b""]
    elements = draw(st.dictionaries(st.sampled_from(keys), st.sampled_from(data), max_size=5)) if data else {}
    return NftSet(spec, elements)


@given(st.none() | rulesets(foreign=True), rulesets())
@settings(max_examples=400, deadline=None)
def test_any_table_becomes_any_other(now: Ruleset | None, wanted: Ruleset) -> None:
    kernel = FakeKernel(now)
    batch = plan(now, wanted)
    kernel.apply(batch)
    assert kernel.read() == wanted
    assert not plan(kernel.read(), wanted)
    assert encode(batch, "segctl") or not batch


@given(rulesets(), rulesets())
@settings(max_examples=150, deadline=None)
def test_equal_rulesets_have_equal_digests(a: Ruleset, b: Ruleset) -> None:
    assert (kernel_digest(a) == kernel_digest(b)) is (a == b)


def test_base_chains_stay() -> None:
    for before in SAMPLES.values():
        for after in SAMPLES.values():
            batch = plan(rendered(before, SHOP_FACTS, 1), rendered(after, SHOP_FACTS, 2))
            touched = [o.name for o in batch.operations if isinstance(o, AddChain | DeleteChain)]
            assert not {"input", "output"} & set(touched)


def test_a_new_member_is_one_element_and_no_chain() -> None:
    before = rendered(SHOP, SHOP_FACTS)
    flows = before.sets["w_shop-db_in4"]
    more = dict(flows.elements) | {b"\x0a\0\0\7\6\0\0\0\x15\x38\0\0": Counts("r_in_web-db")}
    after = replace(before, sets={**before.sets, "w_shop-db_in4": NftSet(flows.spec, MappingProxyType(more))})
    (operation,) = plan(before, after).operations
    assert isinstance(operation, AddElements)
    assert len(operation.elements) == 1


def test_changed_data_is_removed_before_it_is_added() -> None:
    spec = SetSpec((KeyType.IPV4_ADDR,), verdicts=True)
    before = Ruleset({}, {"m": NftSet(spec, {KEYS[0]: ACCEPT, KEYS[1]: DROP})})
    after = Ruleset({}, {"m": NftSet(spec, {KEYS[0]: DROP, KEYS[1]: DROP})})
    gone, new = plan(before, after).operations
    assert gone == DeleteElements("m", spec, (KEYS[0],))
    assert new == AddElements("m", spec, {KEYS[0]: DROP})


def test_a_sleeping_table_is_woken_first() -> None:
    awake = rendered(SHOP, SHOP_FACTS)
    asleep = replace(awake, flags=1)
    assert plan(asleep, awake).operations == (AddTable(),)


def test_only_chains_that_changed_are_rewritten() -> None:
    before = Ruleset({"a": Chain((Rule.of(s.counter()),)), "b": Chain()}, {})
    after = Ruleset({"a": before.chains["a"], "b": Chain((Rule.of(s.counter()),))}, {})
    assert not any(isinstance(o, FlushChain) and o.name == "a" for o in plan(before, after).operations)
