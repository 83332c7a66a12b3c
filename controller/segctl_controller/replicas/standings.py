"""A host's standing as text, for other controllers. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_address

from segctl.errors import StateError

from segctl_controller.contest import Origin
from segctl_controller.fleet import Refusal, Standing
from segctl_controller.store.records import ProofRecord


@dataclass(frozen=True, slots=True)
class Told:
    """`origin` is where its session comes from, or came from; `enrolled_us` tells the machine from another one that has
    its name since."""

    standing: Standing
    origin: Origin
    enrolled_us: int


def standing_text(told: Told) -> str:
    standing, origin = told.standing, told.origin
    proof, refusal = standing.proof, standing.refusal
    return json.dumps(
        {
            "enrolled": told.enrolled_us,
            "connected": standing.connected,
            "proof": [proof.generation, proof.digest, proof.kernel_digest, proof.at_us] if proof else None,
            "refusal": [refusal.digest, *refusal.errors] if refusal else None,
            "staged": standing.staged,
            "stored": standing.stored,
            "ended": standing.ended,
            "holds": standing.holds,
            "notes": standing.notes,
            "refused_addresses": [[str(address), why] for address, why in standing.refused_addresses],
            "released": standing.released,
            "origin": [str(origin.source or ""), origin.boot_id, sorted(map(str, origin.addresses))],
        },
        separators=(",", ":"),
    )


def standing_of(host: str, text: str) -> Told:
    """Raises StateError for what another version wrote."""
    try:
        said = json.loads(text)
        proof, refusal, ended = said["proof"], said["refusal"], said["ended"]
        source, boot_id, addresses = said["origin"]
        standing = Standing(
            connected=said["connected"],
            proof=ProofRecord(host, *proof) if proof else None,
            refusal=Refusal(refusal[0], tuple(refusal[1:])) if refusal else None,
            staged=said["staged"],
            stored=said["stored"],
            ended=(ended[0], ended[1]),
            holds=said["holds"],
            notes=tuple(said["notes"]),
            refused_addresses=tuple((ip_address(address), why) for address, why in said["refused_addresses"]),
            released=said["released"],
        )
        origin = Origin(ip_address(source) if source else None, boot_id, frozenset(map(ip_address, addresses)))
        return Told(standing, origin, said["enrolled"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise StateError(
            f"host {host}: another controller wrote its standing in a form that this one does not read ({error!r}); "
            "run one version of segctl-controller on all machines"
        ) from error
