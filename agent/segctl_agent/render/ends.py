"""What becomes of packets that nothing permits: noted, counted, and dropped, answered or let pass.

    end_W_D      counter, the decision's id into the mark
                 denied_D4, denied_D6: seen lately? counted there, and on to the answer without a log   } each element
                 else log, within the chain's own rate                                                  } has its rate
                 goto refuse_silent, refuse_in or refuse_out, or accept in test mode

A packet that the sets cannot take (no ports, no conntrack entry, a full set) does not match them, so it is logged
within the chain's rate and counted by the chain. Nothing passes without being counted (ADR 12).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

from segctl.model.hostpolicy import HostPolicy, LocalWorkload
from segctl.model.policy import Answer, Mode

from segctl_agent.denials.prefix import NFLOG_GROUP, UNKNOWN_WORKLOAD, encode
from segctl_agent.identity import DIRECTIONS, Direction
from segctl_agent.nft import statements as s
from segctl_agent.nft.ruleset import (
    ACCEPT,
    DROP,
    DYNAMIC_SIZE,
    Chain,
    KeyType,
    NftSet,
    Rule,
    SetSpec,
    Statement,
    Verdict,
    goto,
    jump,
)
from segctl_agent.render.marks import Permit
from segctl_agent.render.sets import denied_connections

SNAPLEN: Final = 96
LOG_RATE, LOG_BURST = 1000, 2000
"""Packets a second that one chain logs."""
KEY_RATE, KEY_BURST = 1, 2
"""Packets a second of one remote address, protocol and port that one chain logs."""
DENIED_KEYS: Final = DYNAMIC_SIZE
DENIED_SECONDS: Final = 60

_SILENT = "refuse_silent"


def end_name(workload: str, direction: Direction) -> str:
    return f"end_{workload}_{direction}"


def back_name(workload: str, direction: Direction) -> str:
    return f"back_{workload}_{direction}"


def unknown_name(direction: Direction) -> str:
    return f"unknown_{direction}"


def again_name(version: s.Version) -> str:
    return f"again{version}"


def denied_name(direction: Direction, version: s.Version) -> str:
    """The set that counts denied packets by mark . remote address . protocol . destination port."""
    return f"denied_{direction}{version}"


def end_chain(direction: Direction, workload: LocalWorkload, permit: Permit, older: tuple[Statement, ...]) -> Chain:
    """The end of a workload's chain. `older` matches a segment of a session older than the table. In modes that let
    packets pass, the mark keeps the rest of the flow from being logged again.

    A packet that goes the other way than its flow was judged (a reply whose decision ended, a session older than the
    table) is asked about in the other direction's terms. A reply that is refused there is no denial of its own: what it
    answers is refused and reported at the other hook. What comes in and conntrack calls invalid is no connection that
    anybody could permit: it is dropped where the workload enforces, and told nowhere.
    """
    if workload.mode is Mode.OBSERVE:  # a packet without a conntrack entry cannot be marked
        return Chain((Rule.of(*permit.accept), Rule.of(s.verdict(ACCEPT))))
    jump_back = s.verdict(jump(back_name(workload.name, direction)))
    back = (Rule.of(s.ct_reply(), jump_back), Rule.of(*older, jump_back))
    if workload.mode is Mode.TEST:
        broadcast = (Rule.of(s.not_to_this_host(), s.verdict(ACCEPT)),) if direction == "in" else ()
        reply = Rule.of(s.ct_reply(), s.verdict(ACCEPT))
        noted = _noted(direction, "test", workload.name, permit.mark, ACCEPT)
        judged = Rule.of(permit.judged, s.verdict(ACCEPT))
        return Chain((judged, *_invalid(direction, ACCEPT), *broadcast, *back, reply, *noted))
    refuse = _refuse_name(direction, workload)
    again = _answered_again() if refuse == "refuse_out" else ()
    broadcast = (Rule.of(s.not_to_this_host(), s.verdict(DROP)),) if direction == "in" else ()
    reply = Rule.of(s.ct_reply(), s.verdict(goto(_SILENT)))
    noted = _noted(direction, "deny", workload.name, permit.refused, goto(refuse))
    return Chain((*again, *_invalid(direction, DROP), *broadcast, *back, reply, *noted))


def unknown_chain(direction: Direction, refused: Statement, *, enforcing: bool) -> Chain:
    """A socket whose cgroup is not mapped yet. Dropped without an answer, a SYN comes again when it is mapped. A
    session that comes here is of a cgroup that is gone and forgotten: nobody can judge it any more, and it ends."""
    if not enforcing:  # marked all the same, or the next segment would make it a session that we did not see begin
        return Chain((Rule.of(refused, s.verdict(ACCEPT)), Rule.of(s.verdict(ACCEPT))))
    noted = _noted(direction, "deny", UNKNOWN_WORKLOAD, refused, goto(_SILENT))
    return Chain((*_invalid(direction, DROP), *noted))


def _invalid(direction: Direction, then: Verdict) -> tuple[Rule, ...]:
    return (Rule.of(s.ct_state("invalid"), s.verdict(then)),) if direction == "in" else ()


def refuse_chains(policy: HostPolicy) -> dict[str, Chain]:
    """The last step of a denied packet, shared by all workloads; those that the policy needs.

    A session whose permission ended gets a reset whatever the answer is: nothing else ends it at once.
    """
    if not policy.enforcing:
        return {}
    needed = {_refuse_name(d, w) for w in policy.workloads if w.mode is Mode.ENFORCE for d in DIRECTIONS} | {_SILENT}
    reset = Rule.of(s.ct_state("established"), s.protocol("tcp"), s.reject_reset())
    every = {
        _SILENT: Chain((reset, Rule.of(s.verdict(DROP)))),
        "refuse_in": Chain((Rule.of(s.protocol("tcp"), s.reject_reset()), Rule.of(s.reject_prohibited()))),
        "refuse_out": Chain((reset, *_dropped_first(), Rule.of(s.reject_prohibited()))),
    }
    return {name: chain for name, chain in every.items() if name in needed}


def end_sets(policy: HostPolicy) -> dict[str, NftSet]:
    """The dynamic sets that the chains here refer to."""
    sets: dict[str, NftSet] = {}
    if any(w.mode is not Mode.OBSERVE for w in policy.workloads):
        sets |= {denied_name(d, v): NftSet(denied_spec(v)) for d in DIRECTIONS for v in s.VERSIONS}
    if "refuse_out" in refuse_chains(policy):
        sets |= {again_name(v): denied_connections(v) for v in s.VERSIONS}
    return sets


def denied_spec(version: s.Version) -> SetSpec:
    address = KeyType.IPV4_ADDR if version == 4 else KeyType.IPV6_ADDR
    key = (KeyType.MARK, address, KeyType.INET_PROTO, KeyType.INET_SERVICE)
    return SetSpec(key, size=DENIED_KEYS, timeout_ms=DENIED_SECONDS * 1000)


def denied_counters(packets: Mapping[str, int], policy: HostPolicy) -> dict[tuple[Direction, str], int]:
    """Kernel.counters as (direction, workload) -> packets that were denied or would be; `?` is the unknown cgroup."""
    out: dict[tuple[Direction, str], int] = {}
    for direction in DIRECTIONS:
        chains = [(end_name(w.name, direction), w.name) for w in policy.workloads]
        for chain, name in (*chains, (unknown_name(direction), UNKNOWN_WORKLOAD)):
            if chain in packets:
                out[direction, name] = packets[chain]
    return out


def _refuse_name(direction: Direction, workload: LocalWorkload) -> str:
    answer = workload.incoming if direction == "in" else workload.outgoing
    return f"refuse_{direction}" if answer is Answer.REJECT else _SILENT


def _noted(
    direction: Direction, verdict: Literal["deny", "test"], workload: str, mark: Statement, then: Verdict
) -> Iterator[Rule]:
    """Count and log the packet, then `then`. The counter stands first: what follows needs a conntrack entry."""
    side: s.Side = "saddr" if direction == "in" else "daddr"
    yield Rule.of(s.counter(), mark)
    for version in s.VERSIONS:
        seen = s.counted_over(side, denied_name(direction, version), KEY_RATE, KEY_BURST, version=version)
        yield Rule.of(s.tcp_or_udp(), seen, s.verdict(then))
    log = s.log(encode(direction, verdict, workload), NFLOG_GROUP, SNAPLEN)
    yield Rule.of(s.limit(LOG_RATE, LOG_BURST), log)
    yield Rule.of(s.verdict(then))


def _answered_again() -> tuple[Rule, ...]:
    """The retransmit of a SYN that was denied: noted before, now answered."""
    return tuple(
        Rule.of(s.tcp_syn(), s.connection_in(again_name(v), version=v), s.reject_prohibited()) for v in s.VERSIONS
    )


def _dropped_first() -> tuple[Rule, ...]:
    """The first SYN is lost, so that the socket still is there when the agent asks whose it is: an ICMP error would end
    a connect that does not block before (ADR 7). When the set is full, the next rule answers."""
    return tuple(Rule.of(s.tcp_syn(), s.connection_add(again_name(v), version=v), s.verdict(DROP)) for v in s.VERSIONS)
