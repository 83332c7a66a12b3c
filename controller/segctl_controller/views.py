"""Records and live state as the messages that operators read."""

from __future__ import annotations

from segctl import __version__
from segctl.model.inventory import Host
from segctl.policy.decide import effective_mode, instances
from segctl.proto.v1 import admin_pb2, agent_pb2
from segctl.wire import source_to_wire

from segctl_controller.facts import UNKNOWN
from segctl_controller.fleet import Fleet
from segctl_controller.store.records import (
    DenialRecord,
    Entry,
    EventRecord,
    GenerationRecord,
    TokenRecord,
)


def generation_view(record: GenerationRecord, active: int, *, with_source: bool = False) -> admin_pb2.Generation:
    return admin_pb2.Generation(
        number=record.number,
        digest=record.digest,
        author=record.author,
        message=record.message,
        created_us=record.created_us,
        active=record.number == active,
        rollback_of=record.rollback_of,
        state=record.state.value,
        why=record.why,
        source=source_to_wire(record.files) if with_source else None,
    )


def host_view(fleet: Fleet, name: str, now_us: int) -> admin_pb2.HostStatus:
    record, standing = fleet.hosts[name], fleet.standing(name)
    facts = agent_pb2.Facts.FromString(record.facts)
    troubles = [*_troubles(fleet, name, now_us), *_strange_words(facts)]
    return admin_pb2.HostStatus(
        name=name,
        tags=dict(record.tags.pairs),
        addresses=[str(a) for a in record.addresses],
        connected=standing.connected,
        last_seen_us=now_us if standing.connected else record.last_seen_us,
        agent_version=record.agent_version,
        kernel_generation=standing.proof.generation if standing.proof and not standing.released else 0,
        state=fleet.state(name),
        workloads=_workloads(fleet, name, facts),
        problems=[f"{t.text}; {t.next}" if t.next else t.text for t in troubles],
        troubles=troubles,
        listeners=facts.listeners,
        kernel=facts.kernel,
        table_guard=facts.table_guard,
        mark_mask=facts.mark_mask,
    )


def _workloads(fleet: Fleet, name: str, facts: agent_pb2.Facts) -> list[admin_pb2.WorkloadStatus]:
    policy, record = fleet.active.policy, fleet.hosts[name]
    cgroups: dict[str, list[str]] = {}
    for unit in facts.units:
        cgroups.setdefault(unit.workload, []).append(unit.cgroup)
    told = {fact.name: fact for fact in facts.workloads}
    open_host = bool(fleet.standing(name).released) or not (record.last_seen_us or fleet.standing(name).connected)
    found = []
    for instance in instances(policy, Host(name, record.tags, record.addresses)):
        declared = policy.workloads.get(instance.workload)
        fact = told.get(instance.workload)
        found.append(
            admin_pb2.WorkloadStatus(
                name=instance.workload,
                mode="" if open_host else effective_mode(policy, instance).value,
                process=str(declared.process) if declared else "",
                cgroups=sorted(cgroups.get(instance.workload, ())),
                identified=fact.identified if fact else "",
                strength=fact.strength if fact else "",
                why=fact.why if fact else "",
            )
        )
    return found


def _troubles(fleet: Fleet, name: str, now_us: int) -> list[admin_pb2.Trouble]:
    standing = fleet.standing(name)
    contest = standing.contest.problem(name, now_us)
    found = [_trouble(contest)] if contest else []
    found += [_trouble(f"claims the address {address}: refused: {why}") for address, why in standing.refused_addresses]
    if standing.released:
        text = f"{standing.released}: nothing is enforced on this host"
        found.append(_trouble(text, "segctl-agent load on the host, when the emergency is over"))
    elif standing.refusal is not None:
        then = "mend what it names and push again; segctl-agent doctor on the host tells more"
        found.extend(_trouble(f"the agent refused the policy: {error}", then) for error in standing.refusal.errors)
    found.extend(_trouble(note) for note in standing.notes)
    if standing.holds > fleet.active.number and fleet.trial is None:
        text = (
            f"holds generation {standing.holds}, newer than this controller's {fleet.active.number}, and keeps it: the "
            "controller's database is an older copy"
        )
        found.append(_trouble(text, "segctl push PATH: the new number will be higher"))
    if fleet.of_retired_ca(fleet.hosts[name].serial):
        text = "its certificate is of a CA that was retired: its next connection is refused"
        mend = f"segctl token create --host {name} --replace, then segctl-agent enrol --replace on the host"
        found.append(_trouble(text, mend))
    if standing.connected and not fleet.hosts[name].addresses:
        text = "holds no address, so no other host's rules can name it"
        found.append(_trouble(f"{text}; its agent reported none that could be accepted", "ip address, on the host"))
    if not standing.connected:
        found.append(_absence(bool(fleet.hosts[name].last_seen_us), bool(standing.released)))
    return found


def _trouble(text: str, then: str = "") -> admin_pb2.Trouble:
    return admin_pb2.Trouble(text=text, next=then)


def _strange_words(facts: agent_pb2.Facts) -> list[admin_pb2.Trouble]:
    """A guard that watches, or a weak identity, is how things are on that host and no problem."""
    strange = [f"workload {fact.name}" for fact in facts.workloads if UNKNOWN in (fact.identified, fact.strength)]
    strange += ["the table's guard"] if facts.table_guard == UNKNOWN else []
    if not strange:
        return []
    more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
    problem = f"its agent speaks of {', '.join(strange[:3])}{more} in words that this controller does not know"
    return [_trouble(problem, "install the controller that belongs to the agent's version")]


def _absence(seen: bool, released: bool) -> admin_pb2.Trouble:
    if not seen:
        text = "enrolled, but its agent never connected: it enforces nothing until it first connects"
        return _trouble(text, "systemctl enable --now segctl-agent on the host; if it runs: segctl-agent doctor")
    keeps = "" if released else ": it keeps its last policy"
    return _trouble(f"its agent is not connected{keeps}", "segctl-agent doctor on the host says why")


def token_view(token: TokenRecord) -> admin_pb2.Token:
    return admin_pb2.Token(
        id=token.id,
        tags=dict(token.tags.pairs),
        host=token.host,
        uses_left=token.uses,
        expires_us=token.expires_us,
        created_by=token.created_by,
        networks=[str(n) for n in token.networks],
    )


def denial_view(record: DenialRecord) -> admin_pb2.DeniedConnection:
    """The newest description of the row, with the row's own count and times."""
    view = admin_pb2.DeniedConnection.FromString(record.body)
    view.id = record.id
    view.denial.count = record.count
    view.denial.first_seen_us = record.first_us
    view.denial.last_seen_us = record.last_us
    return view


def event_view(event: EventRecord) -> admin_pb2.RecentEvent:
    return admin_pb2.RecentEvent(
        host=event.host,
        event=agent_pb2.Event(
            kind=event.kind,
            message=event.message,
            at_us=event.at_us,
            culprit_pid=event.culprit_pid,
            culprit_name=event.culprit_name,
        ),
    )


def entry_view(entry: Entry) -> admin_pb2.AuditEntry:
    return admin_pb2.AuditEntry(
        sequence=entry.sequence,
        at_us=entry.at_us,
        actor=entry.actor,
        action=entry.action,
        subject=entry.subject,
        detail=entry.detail,
        identity=entry.identity,
        peer=entry.peer,
        previous=entry.previous,
        hash=entry.hash,
    )


def status_view(
    fleet: Fleet, active: GenerationRecord | None, events: tuple[EventRecord, ...], fleet_id: str, now_us: int
) -> admin_pb2.StatusReply:
    return admin_pb2.StatusReply(
        active=generation_view(active, fleet.active.number) if active else None,
        hosts=[host_view(fleet, name, now_us) for name in sorted(fleet.hosts)],
        events=[event_view(event) for event in events],
        fleet=fleet_id,
        controller_version=__version__,
    )
