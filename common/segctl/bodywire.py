"""Bodies on the wire: each part serialized once for all hosts that have it, and what changed since an earlier body.

Serialized messages that follow each other are one message with the fields of both, repeated ones appended
(https://protobuf.dev/programming-guides/encoding/#last-one-wins): so a HostPolicy is put together from its parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

from segctl.errors import WireError
from segctl.model.addresses import AddressSet
from segctl.model.hostpolicy import Entry, HostPolicy
from segctl.model.policy import Essentials
from segctl.policy.body import Body, Managed, Members, Rules
from segctl.policy.decide import Direction
from segctl.policy.digest import host_policy_digest
from segctl.proto.v1 import hostpolicy_pb2 as hp
from segctl.wire import addresses_from_wire, entry_rest_to_wire, essentials_to_wire, group_to_wire, workload_to_wire

P = TypeVar("P", Body, Members, Managed)
_SHORT = tuple(bytes((number,)) for number in range(0x80))
_WORKLOADS = hp.HostPolicy.WORKLOADS_FIELD_NUMBER
_GROUPS = hp.HostPolicy.GROUPS_FIELD_NUMBER
_RULE, _GROUP = hp.Entry.RULE_FIELD_NUMBER, hp.Entry.GROUP_FIELD_NUMBER
_WAYS = {"ingress": hp.LocalWorkload.INGRESS_FIELD_NUMBER, "egress": hp.LocalWorkload.EGRESS_FIELD_NUMBER}


def host_policy_bytes(body: Body, host: str, generation: int, policy_digest: str) -> bytes:
    """A serialized HostPolicy."""
    digest = body.host_digest(host, generation, policy_digest)
    header = hp.HostPolicy(host=host, generation=generation, policy_digest=policy_digest, digest=digest)
    parts = [header.SerializeToString(), _rules(body.rules), _managed(body.managed)]
    parts += [m.wire or _members(m) for m in body.members]
    return b"".join(parts)


def delta_bytes(old: Body, new: Body) -> bytes | None:
    """A serialized HostDelta without its header; None where more changed than members."""
    return _since(old, new, _delta)


def _since(old: P, new: P, made: Callable[[P, P], bytes | None]) -> bytes | None:
    """Made once: nearly all who have the new part had the same one before."""
    if new.since is None or new.since[0] is not old:
        old.since = None  # else each part would keep all before it
        new.since = (old, made(old, new))
    return new.since[1]


def delta_header(generation: int, base: str, digest: str) -> bytes:
    return hp.HostDelta(generation=generation, base=base, digest=digest).SerializeToString()


def apply_delta(policy: HostPolicy, delta: hp.HostDelta) -> HostPolicy:
    """What comes of it. Raises WireError for a group that is not there, a broken list of addresses, or another digest
    than the sender's: then `policy` was not what the sender took it for."""
    groups = {g.name: g for g in policy.groups}
    for change in delta.groups:
        group = groups.get(change.name)
        if group is None:
            raise WireError(f"a change of the group {change.name[:80]!r}, which is not there")
        groups[change.name] = replace(group, hosts=_changed(group.hosts, change))
    managed = _changed(policy.managed, delta.managed) if delta.HasField("managed") else policy.managed
    made = replace(policy, groups=tuple(groups.values()), managed=managed)
    if made.generation != delta.generation or host_policy_digest(made) != delta.digest:
        raise WireError("a change of members leads to another digest than the controller's")
    return made


def _changed(addresses: AddressSet, change: hp.MembersDelta) -> AddressSet:
    added = addresses_from_wire("added members", change.added4, change.added6)
    removed = addresses_from_wire("removed members", change.removed4, change.removed6)
    return addresses.updated(added.keys(), removed.keys())


def _delta(old: Body, new: Body) -> bytes | None:
    if old is new:
        return b""
    if old.rules is not new.rules and old.rules.digest != new.rules.digest:
        return None
    if [m.name for m in old.members] != [m.name for m in new.members]:
        return None
    parts = []
    for before, after in zip(old.members, new.members, strict=True):
        if before is not after:
            parts.append(_since(before, after, _group_delta))
    if old.managed is not new.managed:
        parts.append(_since(old.managed, new.managed, _managed_delta))
    return None if None in parts else b"".join([part for part in parts if part is not None])


def _group_delta(before: Members, after: Members) -> bytes | None:
    if before.networks != after.networks:
        return None
    delta = _members_delta(after.name, before.hosts.addresses, after.hosts.addresses)
    return framed(hp.HostDelta.GROUPS_FIELD_NUMBER, delta) if delta else b""


def _managed_delta(before: Managed, after: Managed) -> bytes:
    delta = _members_delta("", before.addresses, after.addresses)
    return framed(hp.HostDelta.MANAGED_FIELD_NUMBER, delta) if delta else b""


def _members_delta(name: str, old: AddressSet, new: AddressSet) -> bytes:
    """A serialized MembersDelta; empty where nothing changed."""
    added, removed = old.delta(new)
    if not (len(added) or len(removed)):
        return b""
    delta = hp.MembersDelta(name=name, added4=added.v4, added6=added.v6, removed4=removed.v4, removed6=removed.v6)
    return delta.SerializeToString()


def _rules(rules: Rules) -> bytes:
    if rules.wire is None:
        parts = [_essentials(rules.essentials)]
        for bare, entries in rules.encoded(_entry):
            parts.append(framed(_WORKLOADS, workload_to_wire(bare).SerializeToString() + entries))
        rules.wire = b"".join(parts)
    return rules.wire


@lru_cache(maxsize=2)
def _essentials(essentials: Essentials) -> bytes:
    """All rules of a policy have the same; at a push there are two policies."""
    return hp.HostPolicy(essentials=essentials_to_wire(essentials)).SerializeToString()


def _entry(way: Direction, entry: Entry) -> tuple[bytes, bytes]:
    """See `segctl.policy.body.Encode`: it is a field of its workload, and the group the second one of it."""
    group = len(entry.group.encode())
    before = framed(_RULE, entry.rule.encode()) + varint(_GROUP << 3 | 2) + varint(group)
    after = entry_rest_to_wire(entry).SerializeToString()
    head = varint(_WAYS[way] << 3 | 2) + varint(len(before) + group + len(after))
    return head + before, after


def framed(field: int, data: bytes) -> bytes:
    """Of a message that is serialized already, as that field of another one: to parse it again would only undo and redo
    what was done once (https://protobuf.dev/programming-guides/encoding/#length-types)."""
    return b"".join((varint(field << 3 | 2), varint(len(data)), data))


def varint(number: int) -> bytes:
    """https://protobuf.dev/programming-guides/encoding/#varints"""
    if number < len(_SHORT):
        return _SHORT[number]
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _members(members: Members) -> bytes:
    if members.wire is None:
        members.wire = framed(_GROUPS, group_to_wire(members.group).SerializeToString())
    return members.wire


def _managed(managed: Managed) -> bytes:
    if managed.wire is None:
        message = hp.HostPolicy(managed4=managed.addresses.v4, managed6=managed.addresses.v6)
        managed.wire = message.SerializeToString()
    return managed.wire
