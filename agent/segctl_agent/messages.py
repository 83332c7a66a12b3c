"""What the agent knows, as messages to its controller, within the bounds the controller sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from segctl import wire
from segctl.model.policy import HOST_WORKLOAD, PROTOCOLS, PortRange
from segctl.proto.v1 import agent_pb2 as pb

from segctl_agent.denials.values import Denial, ProcessInfo
from segctl_agent.facts.values import Address, ListenerFact
from segctl_agent.flows.values import VERDICTS, FlowRow, FlowWindow
from segctl_agent.hits import Hits
from segctl_agent.identity import Identity, Leaf
from segctl_agent.nft.watch import TamperNotice
from segctl_agent.strength import WorkloadFact

MAX_ADDRESSES = 256
MAX_UNITS = 2048
MAX_LISTENERS = 1024
MAX_FLOW_ROWS = 2000
"""In one FlowBatch: about 100 KB."""
_V4_MAPPED = bytes(10) + b"\xff\xff"
MAX_WORKLOADS = 1024
_MAX_WHY = 500
_MAX_USER = 64
_MAX_PATH, _MAX_NAME, _MAX_COMMAND, _MAX_MESSAGE = 1024, 128, 256, 2000


def facts_message(
    addresses: Iterable[Address],
    cgroups: Mapping[str, int],
    listeners: Iterable[ListenerFact],
    identity: Identity | None,
    kernel: str,
    workloads: Iterable[WorkloadFact] = (),
) -> pb.Facts:
    own = sorted(
        (a for a in addresses if not (a.is_loopback or a.is_link_local or a.is_multicast or a.is_unspecified)),
        key=lambda a: (a.version, a),
    )
    message = pb.Facts(
        addresses=[wire.address_to_wire(a) for a in own[:MAX_ADDRESSES]], kernel=_text(kernel, _MAX_NAME)
    )
    message.units.extend(_units(cgroups, identity))
    for fact in list(listeners)[:MAX_LISTENERS]:
        workload = identity.place(fact.cgroup).workload if identity is not None and fact.cgroup else ""
        message.listeners.add(
            protocol=fact.protocol,
            address=wire.address_to_wire(fact.address),
            port=fact.port,
            workload=_text(workload, _MAX_NAME),
            cgroup=_text(fact.cgroup, _MAX_PATH),
            process=_text(fact.process, _MAX_NAME),
            uid=fact.uid,
        )
    for known in list(workloads)[:MAX_WORKLOADS]:
        message.workloads.add(
            name=_text(known.name, _MAX_NAME),
            identified=known.identified,
            strength=known.strength,
            why=_text(known.why, _MAX_WHY),
        )
    return message


def _units(cgroups: Mapping[str, int], identity: Identity | None) -> list[pb.UnitFact]:
    """The cgroups that are mapped to a named workload."""
    found: list[pb.UnitFact] = []
    if identity is None:
        return found
    for path, number in sorted(cgroups.items()):
        place = identity.place(path)
        if place.workload == HOST_WORKLOAD or not identity.elements(path, number):
            continue
        if isinstance(place, Leaf) or identity.place(path.rpartition("/")[0]).workload != place.workload:
            found.append(pb.UnitFact(cgroup=_text(path, _MAX_PATH), workload=place.workload))
            if len(found) == MAX_UNITS:
                break
    return found


def denial_message(denial: Denial) -> pb.Denial:
    return pb.Denial(
        ingress=denial.ingress,
        verdict=denial.verdict,
        workload=denial.workload,
        remote=wire.address_to_wire(denial.remote),
        service=wire.port_range_to_wire(_service(denial)),
        process=process_message(denial.process),
        process_unknown=_text(denial.process_unknown, _MAX_COMMAND),
        count=denial.count,
        first_seen_us=denial.first_seen_us,
        last_seen_us=denial.last_seen_us,
        generation=denial.generation,
    )


def process_message(process: ProcessInfo) -> pb.ProcessInfo:
    return pb.ProcessInfo(
        pid=process.pid,
        exe=_text(process.exe, _MAX_PATH),
        command=_text(process.command, _MAX_COMMAND),
        user=_text(process.user, _MAX_USER),
        unit=_text(process.unit, _MAX_NAME),
        cgroup=_text(process.cgroup, _MAX_PATH),
    )


def _service(denial: Denial) -> PortRange:
    for protocol in PROTOCOLS:
        if protocol == denial.protocol:
            return PortRange(protocol, denial.port, denial.port)
    number = int(denial.protocol.removeprefix("ip/"))
    return PortRange("ip", number, number)


def flow_batches(window: FlowWindow) -> list[pb.FlowBatch]:
    """A window in as many messages as it takes, `lost` in the first. None for a window that tells nothing."""
    parts = [window.rows[at : at + MAX_FLOW_ROWS] for at in range(0, len(window.rows), MAX_FLOW_ROWS)]
    batches = [_flow_batch(window, rows) for rows in parts or ([()] if window.lost else [])]
    if batches:
        batches[0].lost = window.lost
    return batches


def _flow_batch(window: FlowWindow, rows: tuple[FlowRow, ...]) -> pb.FlowBatch:
    workloads = {name: at for at, name in enumerate(dict.fromkeys(r.key.workload for r in rows))}
    rules = {name: at for at, name in enumerate(dict.fromkeys(r.key.rule for r in rows))}
    processes = {name: at for at, name in enumerate(dict.fromkeys(r.key.process for r in rows))}
    return pb.FlowBatch(
        from_us=window.from_us,
        until_us=window.until_us,
        workloads=[_text(name, _MAX_NAME) for name in workloads],
        rules=[_text(name, _MAX_NAME) for name in rules],
        workload=[workloads[r.key.workload] for r in rows],
        rule=[rules[r.key.rule] for r in rows],
        direction=[int(r.key.direction == "in") for r in rows],
        remotes=b"".join(_V4_MAPPED + r.key.remote if len(r.key.remote) == 4 else r.key.remote for r in rows),
        protocol=[r.key.protocol for r in rows],
        port=[r.key.port for r in rows],
        flows=[r.flows for r in rows],
        bytes_sent=[r.bytes_sent for r in rows],
        bytes_received=[r.bytes_received for r in rows],
        first_ms=[_after(window.from_us, r.first_us) for r in rows],
        last_ms=[_after(window.from_us, r.last_us) for r in rows],
        verdict=[VERDICTS.index(r.key.verdict) for r in rows],
        processes=list(processes),
        process=[processes[r.key.process] for r in rows],
    )


def _after(start_us: int, at_us: int) -> int:
    """Milliseconds, as 32 bits hold them."""
    return min(max(0, at_us - start_us) // 1000, 0xFFFF_FFFF)


def event_message(kind: str, message: str, at_us: int, culprit: TamperNotice | None = None) -> pb.Event:
    """`kind` is tamper, state, kernel or facts."""
    return pb.Event(
        kind=kind,
        message=_text(message, _MAX_MESSAGE),
        at_us=at_us,
        culprit_pid=culprit.pid if culprit else 0,
        culprit_name=_text(culprit.process, _MAX_NAME) if culprit else "",
    )


def _text(value: str, most: int) -> str:
    """At most `most` bytes of UTF-8. A process or a cgroup may bear a name that is no text: Python reads it with lone
    surrogates, which no message can carry, so they are escaped."""
    return value.encode("utf-8", "backslashreplace")[:most].decode("utf-8", "ignore")


def hit_messages(hits: Iterable[Hits]) -> list[pb.RuleHits]:
    return [pb.RuleHits(rule=h.rule, ingress=h.direction == "in", count=h.count, last_hit_us=h.last_us) for h in hits]
