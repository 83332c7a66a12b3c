"""Where hosts stand with what they must hold, as operators are told."""

from __future__ import annotations

from collections import Counter

from segctl.proto.v1 import admin_pb2 as pb

from segctl_controller.fleet import Fleet


def push_done(fleet: Fleet, undone: str = "") -> pb.PushDone:
    """How a push ended, and where all hosts stand now. `undone`: why it was."""
    states = Counter(host_state(fleet, host) for host in fleet.hosts)
    return pb.PushDone(
        proven=states["proven"],
        refused=states["refused"],
        offline=states["offline"],
        waiting=states["waiting"],
        released=states["released"],
        undone=bool(undone),
        why=undone,
    )


def host_state(fleet: Fleet, name: str) -> str:
    """Where one host stands with what it must hold now: offline, released, proven, refused or waiting."""
    standing, wanted = fleet.standing(name), fleet.wanted(name)
    if not standing.connected:
        return "offline"
    if standing.released:
        return "released"
    if wanted is not None and standing.proof is not None and standing.proof.digest == wanted.digest:
        return "proven"
    if wanted is not None and standing.refusal is not None and standing.refusal.digest == wanted.digest:
        return "refused"
    return "waiting"


def host_proof(fleet: Fleet, name: str) -> pb.HostProof:
    """The same, and why."""
    standing = fleet.standing(name)
    proof = pb.HostProof(host=name, state=host_state(fleet, name))
    if proof.state == "offline":
        proof.never_connected = fleet.state(name) == "never-connected"
    elif proof.state == "released":
        proof.errors.append(standing.released)
    elif proof.state == "proven" and standing.proof is not None:
        proof.kernel_digest = standing.proof.kernel_digest
    elif proof.state == "refused" and standing.refusal is not None:
        proof.errors.extend(standing.refusal.errors)
    return proof
