"""Who the simulated agents are: a certificate of the fleet for each, and the record that the controller keeps of it.

Two ways. `issue` is a shortcut for sizing: it signs with the CA in the controller's state directory and writes the
hosts into its store, while the controller does not run. `enrol` asks a running controller, as a real agent does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from segctl.errors import StateError
from segctl.model.inventory import Address
from segctl_agent.credentials import Identity
from segctl_agent.enrol import accept_reply, ask_controllers, make_request
from segctl_agent.jointoken import parse_join_token
from segctl_controller.authority import Authority
from segctl_controller.config import endpoint, load_config
from segctl_controller.setup import open_store
from segctl_controller.store.protocol import FindHost
from segctl_controller.store.records import Entry, HostRecord, TokenRecord

from bench.fleet.policies import FleetHost

ACTOR = "bench.fleet"
ENROLLING = 16
"""Enrolments under way at a time."""


@dataclass(frozen=True, slots=True)
class Member:
    """A simulated agent before it starts: its identity, and the addresses that it will claim."""

    identity: Identity
    addresses: tuple[Address, ...]

    def at(self, controllers: Sequence[str]) -> Member:
        """The same one, at other controllers (HOST:PORT)."""
        return replace(self, identity=replace(self.identity, controllers=tuple(controllers)))


def issue(state: Path, hosts: Sequence[FleetHost]) -> list[Member]:
    """Makes `hosts` members of the fleet of the controller in `state`, which must not run. A host of that name that is
    there already is replaced. Raises StateError."""
    config = load_config(state)
    authority = Authority.load(state, config.fleet)
    now = datetime.now(UTC)
    controllers = (endpoint(config.names[0], config.port),)
    members = []
    for host in hosts:
        request = make_request(host.name)
        issued = authority.issue_host(request.csr, host.name, now)
        certificate = x509.load_der_x509_certificate(issued.certificate)
        identity = Identity(
            fleet=config.fleet,
            host=host.name,
            controllers=controllers,
            key=request.key,
            certificate=certificate.public_bytes(Encoding.PEM),
            ca=authority.ca_pem,
            valid_from=certificate.not_valid_before_utc,
            valid_until=certificate.not_valid_after_utc,
        )
        members.append((Member(identity, host.addresses), issued.serial))
    _record(state, hosts, [serial for _, serial in members], now)
    return [member for member, _ in members]


def _record(state: Path, hosts: Sequence[FleetHost], serials: Sequence[str], now: datetime) -> None:
    """By a join token that is used up with the last host, so that the store sees nothing that it would not see."""
    at_us = int(now.timestamp() * 1e6)
    secret = hashlib.sha256(secrets.token_bytes(32)).digest()
    token = TokenRecord(f"fleet-{secret.hex()[:8]}", secret, hosts[0].tags, "", len(hosts), at_us + 1, True, ACTOR)
    store = open_store(state)
    try:
        store.add_token(token, Entry(at_us, ACTOR, "token-create", token.id))
        for host, serial in zip(hosts, serials, strict=True):
            record = HostRecord(host.name, host.tags, serial, at_us)
            store.enrol(secret, at_us, _admitting(record), _entry)
    finally:
        store.close()


def _admitting(record: HostRecord) -> Callable[[TokenRecord, FindHost], HostRecord]:
    return lambda _token, _find: record


def _entry(host: HostRecord) -> Entry:
    return Entry(host.enrolled_us, ACTOR, "enrol", f"host {host.name}")


async def enrol(join: str, hosts: Iterable[FleetHost]) -> list[Member]:
    """Enrols `hosts` with a join token that allows as many uses; they get its tags. Raises EnrolmentError and
    ControllerUnreachableError."""
    token = parse_join_token(join)
    turns = asyncio.Semaphore(ENROLLING)

    async def one(host: FleetHost) -> Member:
        async with turns:
            request = make_request(host.name)
            reply = await asyncio.to_thread(ask_controllers, token, request)
            return Member(accept_reply(token, request, reply, datetime.now(UTC)), host.addresses)

    return list(await asyncio.gather(*(one(host) for host in hosts)))


def save(path: Path, members: Sequence[Member]) -> None:
    """One JSON file with every key in it, readable by its owner alone."""
    first = members[0].identity
    content = {
        "fleet": first.fleet,
        "ca": first.ca.decode(),
        "controllers": first.controllers,
        "agents": [
            {
                "host": m.identity.host,
                "addresses": [str(a) for a in m.addresses],
                "certificate": m.identity.certificate.decode(),
                "key": m.identity.key.decode(),
            }
            for m in members
        ],
    }
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file)


def load(path: Path) -> list[Member]:
    """Raises StateError for a file that `save` did not write."""
    try:
        content = json.loads(path.read_text())
        return [
            Member(
                Identity(
                    fleet=content["fleet"],
                    host=agent["host"],
                    controllers=tuple(content["controllers"]),
                    key=agent["key"].encode(),
                    certificate=agent["certificate"].encode(),
                    ca=content["ca"].encode(),
                    valid_from=datetime.min.replace(tzinfo=UTC),
                    valid_until=datetime.max.replace(tzinfo=UTC),
                ),
                tuple(ip_address(a) for a in agent["addresses"]),
            )
            for agent in content["agents"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path}: no agents in it ({error}); make them with: python -m bench.fleet prepare") from error
