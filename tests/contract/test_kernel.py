"""What every Kernel does: the fake one, the real one by netlink, and the real one by libnftables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from segctl.errors import KernelError, KernelFullError
from segctl_agent.nft import statements as s
from segctl_agent.nft.digest import kernel_digest
from segctl_agent.nft.fallback import LibraryKernel
from segctl_agent.nft.kernel import FakeKernel, Kernel, NetlinkKernel
from segctl_agent.nft.operations import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    Batch,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    Operation,
)
from segctl_agent.nft.plan import plan
from segctl_agent.nft.ruleset import (
    ACCEPT,
    DROP,
    INPUT,
    Chain,
    KeyType,
    NftSet,
    Rule,
    Ruleset,
    SetSpec,
    goto,
)

from tests.decided import rendered
from tests.netns.samples import SAMPLES, SHOP, SHOP_FACTS
from tests.netns.spaces import Space

Scenario = Callable[[Kernel], None]
Runner = Callable[[Scenario], None]
ADDRESSES = SetSpec((KeyType.IPV4_ADDR,))
CGROUPS = SetSpec((KeyType.CGROUPSV2,), verdicts=True)
AGAIN = SetSpec((KeyType.IPV4_ADDR, KeyType.INET_SERVICE, KeyType.INET_SERVICE), size=64, timeout_ms=60_000)
A, B = b"\x0a\0\0\1", b"\x0a\0\0\2"


MAKERS: dict[str, Callable[[], Kernel]] = {"netlink": NetlinkKernel, "text": LibraryKernel}


@pytest.fixture(params=["fake", *(pytest.param(name, marks=pytest.mark.kernel) for name in MAKERS)])
def run(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Calls a scenario with a kernel that holds no table of ours."""
    if request.param == "fake":
        yield lambda scenario: scenario(FakeKernel())
        return
    space = Space("contract")

    def inside(scenario: Scenario) -> None:
        def call() -> None:
            kernel = MAKERS[request.param]()
            scenario(kernel)
            kernel.close()

        space.run(call)

    try:
        yield inside
    finally:
        space.close()


@contextmanager
def unchanged(kernel: Kernel) -> Iterator[None]:
    before = kernel.read()
    yield
    assert kernel.read() == before


def table(*operations: Operation) -> Batch:
    return Batch((AddTable(), *operations))


def test_no_table_reads_as_none_and_destroy_is_harmless(run: Runner) -> None:
    def scenario(kernel: Kernel) -> None:
        assert kernel.read() is None
        assert kernel.counters() == {}
        kernel.destroy()
        assert kernel.read() is None

    run(scenario)


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_applied_is_read_back(run: Runner, name: str) -> None:
    def scenario(kernel: Kernel) -> None:
        wanted = rendered(SAMPLES[name], SHOP_FACTS, 1)
        kernel.apply(plan(None, wanted))
        found = kernel.read()
        assert found == wanted
        assert kernel_digest(found) == kernel_digest(wanted)
        assert not plan(found, wanted)

    run(scenario)


def test_every_sample_turns_into_every_other(run: Runner) -> None:
    def scenario(kernel: Kernel) -> None:
        every = [rendered(p, SHOP_FACTS, i + 1) for i, p in enumerate(SAMPLES.values())]
        kernel.apply(plan(None, every[0]))
        for before in every:
            for after in every:
                for wanted in (before, after):
                    kernel.apply(plan(kernel.read(), wanted))
                    assert kernel.read() == wanted

    run(scenario)


def test_the_generation_moves_with_changes_only(run: Runner) -> None:
    def scenario(kernel: Kernel) -> None:
        start = kernel.generation()
        assert kernel.generation() == start
        kernel.apply(Batch())
        assert kernel.generation() == start
        kernel.apply(plan(None, rendered(SHOP, SHOP_FACTS, 1)))
        assert kernel.generation() != start

    run(scenario)


def test_destroy_removes_the_table(run: Runner) -> None:
    def scenario(kernel: Kernel) -> None:
        kernel.apply(plan(None, rendered(SHOP, SHOP_FACTS, 1)))
        kernel.destroy()
        assert kernel.read() is None

    run(scenario)


REFUSED: dict[str, tuple[tuple[Operation, ...], Operation]] = {
    "a rule with an unknown set": ((AddChain("c"),), AddRule("c", Rule.of(s.address_in("saddr", "no", version=4)))),
    "a rule in an unknown chain": ((), AddRule("c", Rule.of(s.verdict(ACCEPT)))),
    "a jump to an unknown chain": ((AddChain("c"),), AddRule("c", Rule.of(s.verdict(goto("no"))))),
    "an element that goes to an unknown chain": (
        (AddSet("m", CGROUPS),),
        AddElements("m", CGROUPS, {b"12345678": goto("no")}),
    ),
    "a chain that a rule goes to": (
        (AddChain("c"), AddChain("d"), AddRule("d", Rule.of(s.verdict(goto("c"))))),
        DeleteChain("c"),
    ),
    "a chain that an element goes to": (
        (AddChain("c"), AddSet("m", CGROUPS), AddElements("m", CGROUPS, {b"12345678": goto("c")})),
        DeleteChain("c"),
    ),
    "a set that a rule looks at": (
        (AddSet("a4", ADDRESSES), AddChain("c"), AddRule("c", Rule.of(s.address_in("saddr", "a4", version=4)))),
        DeleteSet("a4"),
    ),
    "a set that is not there": ((), DeleteSet("no")),
    "an element that is not there": ((AddSet("a4", ADDRESSES),), DeleteElements("a4", ADDRESSES, (A,))),
    "an element with other data": (
        (AddChain("c"), AddSet("m", CGROUPS), AddElements("m", CGROUPS, {b"12345678": goto("c")})),
        AddElements("m", CGROUPS, {b"12345678": ACCEPT}),
    ),
    "a base chain at another hook": ((AddChain("b", INPUT),), AddChain("b", replace(INPUT, hook=3))),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_change_nothing(run: Runner, case: str) -> None:
    def scenario(kernel: Kernel) -> None:
        allowed, refused = REFUSED[case]
        kernel.apply(table(*allowed))
        with unchanged(kernel), pytest.raises(KernelError):
            kernel.apply(Batch((AddChain("other"), refused)))

    run(scenario)


def test_a_full_set_has_its_own_error_and_names_the_set(run: Runner) -> None:
    def scenario(kernel: Kernel) -> None:
        spec = replace(ADDRESSES, size=4)
        kernel.apply(table(AddSet("few", spec), AddElements("few", spec, {A: None})))
        many = {bytes([10, 0, 1, i]): None for i in range(64)}
        with unchanged(kernel), pytest.raises(KernelFullError, match="few"):
            kernel.apply(Batch((AddElements("few", spec, many),)))

    run(scenario)


def test_elements_of_a_dynamic_set_are_the_kernels_business(run: Runner) -> None:
    def scenario(kernel: Kernel) -> None:
        wanted = Ruleset(
            {
                "end": Chain(
                    (
                        Rule.of(s.tcp_syn(), s.connection_in("again4", version=4), s.reject_prohibited()),
                        Rule.of(s.tcp_syn(), s.connection_add("again4", version=4), s.verdict(DROP)),
                    )
                )
            },
            {"again4": NftSet(AGAIN)},
        )
        kernel.apply(plan(None, wanted))
        kernel.apply(Batch((AddElements("again4", AGAIN, {bytes(12): None}),)))
        found = kernel.read()
        assert found == wanted
        assert kernel_digest(found) == kernel_digest(wanted)
        assert not plan(found, wanted)
        longer = replace(wanted, sets={"again4": NftSet(replace(AGAIN, timeout_ms=5000))})
        kernel.apply(plan(found, longer))
        assert kernel.read() == longer
        kernel.apply(plan(kernel.read(), Ruleset()))
        assert kernel.read() == Ruleset()

    run(scenario)


def test_an_element_can_change_its_data_in_one_transaction(run: Runner) -> None:
    def scenario(kernel: Kernel) -> None:
        key = b"12345678"
        kernel.apply(table(AddChain("c"), AddSet("m", CGROUPS), AddElements("m", CGROUPS, {key: goto("c")})))
        kernel.apply(Batch((DeleteElements("m", CGROUPS, (key,)), AddElements("m", CGROUPS, {key: ACCEPT}))))
        found = kernel.read()
        assert found is not None
        assert found.sets["m"] == NftSet(CGROUPS, {key: ACCEPT})

    run(scenario)


def test_intervals_are_read_as_written(run: Runner) -> None:
    def scenario(kernel: Kernel) -> None:
        spec = replace(ADDRESSES, interval=True)
        ends = [(b"\0\0\0\0", b"\0\0\0\7"), (A, A), (b"\x0b\0\0\0", b"\x0b\xff\xff\xff"), (b"\xff\0\0\0", b"\xff" * 4)]
        wanted = Ruleset({}, {"n4": NftSet(spec, {low + high: None for low, high in ends})})
        kernel.apply(plan(None, wanted))
        assert kernel.read() == wanted
        fewer = Ruleset({}, {"n4": NftSet(spec, {low + high: None for low, high in ends[1:3]})})
        kernel.apply(plan(wanted, fewer))
        assert kernel.read() == fewer

    run(scenario)


def test_the_policy_of_a_base_chain_is_mended_in_place(run: Runner) -> None:
    def scenario(kernel: Kernel) -> None:
        kernel.apply(table(AddChain("input", replace(INPUT, drop=False))))
        wanted = Ruleset({"input": Chain((), INPUT)})
        mend = plan(kernel.read(), wanted)
        assert mend == Batch((AddChain("input", INPUT),))
        kernel.apply(mend)
        assert kernel.read() == wanted

    run(scenario)


def test_counters_name_the_chains_that_count(run: Runner) -> None:
    def scenario(kernel: Kernel) -> None:
        if isinstance(kernel, FakeKernel):
            kernel.packets = {"end_shop-db_in": 0}
        kernel.apply(plan(None, rendered(SHOP, SHOP_FACTS, 1)))
        assert kernel.counters()["end_shop-db_in"] == 0

    run(scenario)
