"""New connections: our rules against none and against the least that a stateful firewall can be."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from textwrap import shorten

from bench.contest import Contestant, Times, run_contest
from bench.enforced import NFLOG_GROUP, put_in_force
from bench.peers import PEERS, packages
from bench.policies import (
    CLIENT,
    CLIENT_UNIT,
    SERVER,
    SERVER_UNIT,
    client_policy,
    make_units,
    server_policy,
    unit_path,
)
from bench.rows import Goal, Row
from bench.sandbox import run_nft
from bench.wire import Wire, client_address

FLOOR_RULES = """table inet floor_{hook} {{
  chain rules {{
    type filter hook {hook} priority filter; policy drop;
    ct state established accept
    tcp dport 8080 accept
  }}
}}
"""

_PEER_RULES = 1000

_HOW = (
    "one pinned thread owns both ends, configurations take turns in {slice} ms slices, {rounds} rounds; "
    "rate ratio per round, median"
)


class _Field:
    """The contestants, built one by one in namespaces that live as long as the stack."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.contestants: list[Contestant] = []

    def _add(self, name: str, wire: Wire, entries: int = 1000, listener: bool = False) -> None:
        group = NFLOG_GROUP if listener else None
        self.contestants.append(Contestant(name, wire, entries, unit_path(CLIENT_UNIT), unit_path(SERVER_UNIT), group))

    def plain(self, name: str, server_hooks: tuple[str, ...] = (), client_hooks: tuple[str, ...] = ()) -> None:
        """No rules, or the floor on the hooks that are named."""
        wire = self._stack.enter_context(Wire())
        for namespace, hooks in ((wire.server, server_hooks), (wire.client, client_hooks)):
            with namespace.entered():
                for hook in hooks:
                    run_nft(FLOOR_RULES.format(hook=hook))
        self._add(name, wire)

    def ours(self, name: str, entries: int, client_too: bool = False) -> None:
        """Our rules with the log listener on the server, and on the client when asked for."""
        wire = self._stack.enter_context(Wire())
        put_in_force(wire.server, server_policy(entries), SERVER)
        if client_too:
            put_in_force(wire.client, client_policy(entries), CLIENT)
        self._add(name, wire, entries, listener=True)

    def peer(self, name: str) -> str:
        """A firewall from Debian on the server; answers its version. RuntimeError when its packages cannot be had, when
        it does not start, or does not let the clients in."""
        wire = self._stack.enter_context(Wire())
        version = self._stack.enter_context(PEERS[name](wire.server, [client_address(i) for i in range(_PEER_RULES)]))
        self._add(name, wire, _PEER_RULES)
        try:
            run_contest(self.contestants[-1:], 5, 1)
        except RuntimeError:
            self.contestants.pop()
            raise
        return version


def prepare() -> None:
    """Outside the sandbox, which has no network. What cannot be had is told by the rows that lack it."""
    with suppress(RuntimeError):
        packages()


def measure(quick: bool) -> list[Row]:
    """Rows of the rate of new connections; none of the connections is denied."""
    slice_ms, rounds = (20, 9) if quick else (40, 121)
    make_units((SERVER_UNIT, CLIENT_UNIT))
    with ExitStack() as stack:
        field = _Field(stack)
        field.plain("none")
        field.ours("ours_1k", 1_000)
        field.ours("ours_100k", 100_000)
        field.ours("ours_10k", 10_000)
        field.plain("floor", ("input",))
        field.plain("floor_again", ("input",))
        field.plain("floor_both_ends", ("input",), ("output",))
        field.ours("ours_both_ends_10k", 10_000, client_too=True)
        peers = {name: _start(field, name) for name in PEERS}
        times = run_contest(field.contestants, slice_ms, rounds)
    how = _HOW.format(slice=slice_ms, rounds=rounds)
    return _rows(times, how) + [_against(times, how, *peer) for peer in peers.items()]


def _start(field: _Field, name: str) -> str | Exception:
    """The peer's version, or why it does not take part."""
    try:
        return field.peer(name)
    except (RuntimeError, OSError) as error:
        return error


def _ratio(times: Times, how: str, name: str, over: str, title: str, goal: Goal | None = None, note: str = "") -> Row:
    spread = times.rate_ratio(name, over)
    added = times.added(name, over).p50
    return Row(title, spread.p50, "ratio", f"{how}; {note}{spread}; {added:+.2f} us a connection", goal)


def _against(times: Times, how: str, name: str, version: str | Exception) -> Row:
    title, goal = f"new connections, ours with 10k entries, over {name} with 1k rules", Goal(">", 1)
    if isinstance(version, Exception):
        return Row(title, None, "ratio", f"not measured: {name} from Debian: {shorten(str(version), 400)}", goal)
    note = (
        f"{version}, a rule for each of {_PEER_RULES} addresses, each of which is a client as often as the others: the "
        "rule that decides is on average in the middle; "
    )
    return _ratio(times, how, "ours_10k", name, title, goal, note)


def _rows(times: Times, how: str) -> list[Row]:
    def ratio(name: str, over: str, title: str, goal: Goal | None = None, note: str = "") -> Row:
        return _ratio(times, how, name, over, title, goal, note)

    ours = "enforcing, identity by cgroup in and out, managed and peer sets, epoch mark, log with a listener; "
    return [
        ratio("ours_10k", "floor", "new connections, 10k entries, over the conntrack floor", Goal(">=", 0.97), ours),
        ratio("ours_100k", "ours_1k", "new connections, 100k entries over 1k", Goal(">=", 0.98)),
        ratio(
            "ours_both_ends_10k",
            "floor_both_ends",
            "new connections, 10k entries on both ends, over the floor on both ends",
            None,
            "client in a unit with our output rules, floor: input of the server and output of the client; ",
        ),
        ratio("ours_1k", "floor", "new connections, 1k entries, over the conntrack floor"),
        ratio("ours_100k", "floor", "new connections, 100k entries, over the conntrack floor"),
        ratio("floor", "none", "new connections, conntrack floor, over no firewall"),
        ratio("ours_10k", "none", "new connections, 10k entries, over no firewall"),
        ratio("floor_again", "floor", "new connections, the floor over itself: what this run can resolve"),
    ]
