"""Decoders of what comes over the network, on a command line or from the disk: the wire, join tokens, stored state."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError
from segctl import wire
from segctl.errors import EnrolmentError, KernelError, StateError, WireError
from segctl.model.hostpolicy import HostPolicy
from segctl.model.inventory import Host, Inventory
from segctl.model.policy import Essentials, Network, Policy, Tags
from segctl.policy.digest import host_policy_digest
from segctl.proto.v1 import agent_pb2, hostpolicy_pb2
from segctl.statuspage import Page, StatusPage
from segctl_agent.conversation import Conversation, InForce
from segctl_agent.credentials import Identity
from segctl_agent.enforcer import Enforcer
from segctl_agent.enrol import accept_reply, make_request
from segctl_agent.jointoken import parse_join_token
from segctl_agent.nft.fake import FakeKernel
from segctl_agent.reissue import signed_request
from segctl_agent.renew import accept
from segctl_agent.slots import pack, unpack
from segctl_agent.state import decode_policy
from segctl_controller.authority import Authority, requested_key
from segctl_controller.clock import Clock
from segctl_controller.errors import ForbiddenError, InvalidRequestError, LimitError, UnauthenticatedError
from segctl_controller.facts import read_claims
from segctl_controller.feed import Feed
from segctl_controller.reissue import who_proved
from segctl_controller.reports import ReportService, check_bounds
from segctl_controller.rpc import Caller, caller_by

from tests.fuzz.target import Target
from tests.netns.samples import SHOP
from tests.policies import policy

_HOST = SHOP.host
_RULES = """\
modes: [{select: {}, mode: enforce}]
rules:
  - {name: web-db, from: {role: web}, to: {workload: shop-db}, allow: [postgres], owner: team, why: orders}
"""


def _host_policy(data: bytes) -> None:
    """What is taken from a stored generation is written back as the same value."""
    value = decode_policy(data)
    assert decode_policy(wire.host_policy_to_wire(value).SerializeToString()) == value


def _status_page(data: bytes) -> None:
    """Whatever a stranger sends gets an answer, and no header of his own."""

    async def healthy() -> Page:
        return Page(b"ok\n")

    reply = StatusPage({"/healthz": healthy}).reply(data)
    with pytest.raises(StopIteration) as ended:  # it waits for nothing
        reply.send(None)
    head, _, _ = ended.value.value.partition(b"\r\n\r\n")
    first, *headers = head.split(b"\r\n")
    assert first.split(b" ")[1] in (b"200", b"400", b"404", b"405")
    assert len(headers) == 5


def _enforced(data: bytes) -> None:
    """A controller that lies may give any policy its digest: what passes the checks of the wire must be enforceable,
    or be refused with an error that the session answers."""
    message = hostpolicy_pb2.HostPolicy.FromString(data)
    message.digest = host_policy_digest(_unchecked(message))
    value = wire.host_policy_from_wire(message)
    Enforcer(FakeKernel(), lambda names: dict.fromkeys(names, 1000), 990).put(value)


def _unchecked(message: hostpolicy_pb2.HostPolicy) -> HostPolicy:
    """The value as `wire` decodes it, before its checks of the whole."""

    def networks(of: Iterable[hostpolicy_pb2.Network]) -> tuple[Network, ...]:
        return tuple(wire.network_from_wire(n) for n in of)

    essentials = message.essentials
    return HostPolicy(
        host=message.host,
        generation=message.generation,
        policy_digest=message.policy_digest,
        workloads=tuple(wire._workload_from_wire(w) for w in message.workloads),
        groups=tuple(wire._group_from_wire(g) for g in message.groups),
        managed=wire.addresses_from_wire("managed", message.managed4, message.managed6),
        essentials=Essentials(
            dns=networks(essentials.dns),
            ntp=networks(essentials.ntp),
            rescue=networks(essentials.rescue),
            rescue_ports=tuple(wire.port_range_from_wire(p) for p in essentials.rescue_ports),
        ),
    )


def _conversation(data: bytes) -> None:
    """Messages, each after its length in two bytes."""
    talk = Conversation(_HOST)
    for part in _parts(data):
        talk.receive(agent_pb2.ControllerMessage.FromString(part), InForce(2, "d"))


def _parts(data: bytes) -> list[bytes]:
    found = []
    while data:
        length = int.from_bytes(data[:2], "big")
        found.append(data[2 : 2 + length])
        data = data[2 + length :]
    return found


def _framed(*messages: agent_pb2.ControllerMessage) -> bytes:
    contents = [m.SerializeToString() for m in messages]
    return b"".join(len(c).to_bytes(2, "big") + c for c in contents)


def _token(data: bytes) -> None:
    parse_join_token(data.decode("latin-1"))


def _enrol_reply(data: bytes) -> None:
    accept_reply(parse_join_token(_TOKEN.decode()), _REQUEST, agent_pb2.EnrolReply.FromString(data), _NOW)


def _renew_reply(data: bytes) -> None:
    accept(_IDENTITY, _REQUEST.key, agent_pb2.RenewReply.FromString(data), _NOW)


def _reissue(data: bytes) -> None:
    who_proved(agent_pb2.ReissueRequest.FromString(data), _NONCE, (_AUTHORITY.certificate,), "f")


def _certificate(data: bytes) -> None:
    """Of a client. TLS has verified it by then: only its holder's CA could have made it so strange."""
    try:
        certificate = x509.load_der_x509_certificate(data)
        certificate.public_key()
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm):
        return
    caller_by(certificate, "f", "host")


def _csr(data: bytes) -> None:
    requested_key(data)


def _slot(data: bytes) -> None:
    stored = unpack(data)
    assert pack(stored.value, stored.sequence, stored.turn) == data


def _facts(data: bytes) -> None:
    claims = read_claims(agent_pb2.Facts.FromString(data))
    assert len(claims.addresses) <= 256
    agent_pb2.Facts.FromString(claims.facts)


@dataclass
class _Fleet:
    """What the report service asks of a fleet of two hosts."""

    revision: int = 1
    policy: Policy = field(default_factory=lambda: policy(_RULES))
    hosts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        address = ip_address("10.0.0.1")
        self.inventory = Inventory(
            {
                "db1": Host("db1", Tags.of({"role": "db", "app": "shop"}), ()),
                "web1": Host("web1", Tags.of({"role": "web", "app": "shop"}), (address,)),
            }
        )
        self.holders = {address: "web1"}

    @property
    def active(self) -> _Fleet:
        return self


class _Registry:
    fleet = _Fleet()

    def verify(self, host: str, serial: str, issued_us: int) -> None:
        """Everyone is enrolled here."""


@cache
def _reports() -> ReportService:
    clock = Clock(lambda: 1_800_000_000_000_000)
    return ReportService("fleet", _Registry(), None, None, clock, Feed())  # type: ignore[arg-type]


def _report(data: bytes) -> None:
    message = agent_pb2.ReportBatch.FromString(data)
    check_bounds(message)
    told = _reports()._told("db1", message)
    if told is not None and len(told.columns):
        assert (told.columns.first_us <= told.columns.last_us).all()
    batch = asyncio.run(_reports()._batch(Caller("host", "db1", "1"), message))
    assert batch.host == "db1"
    assert len(batch.denials) <= 1000
    for denial in batch.denials:
        assert 0 <= denial.first_us <= denial.last_us


_NOW = datetime(2027, 1, 1, tzinfo=UTC)
_REQUEST = make_request("db1")


def _token_line() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fleet")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1).not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    certificate = made.not_valid_after(datetime(2036, 1, 1, tzinfo=UTC)).sign(key, hashes.SHA256())
    content = {
        "c": ["controller.example:7443"],
        "e": ["192.0.2.1:7444"],
        "ca": base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode(),
        "s": base64.b64encode(bytes(32)).decode(),
    }
    return base64.urlsafe_b64encode(json.dumps(content).encode())


def _samples() -> dict[str, agent_pb2.ReportBatch | agent_pb2.Facts]:
    service = hostpolicy_pb2.PortRange(protocol="tcp", low=5432, high=5432)
    denial = agent_pb2.Denial(
        ingress=True,
        verdict="denied",
        workload="shop-db",
        remote=bytes([10, 0, 0, 1]),
        service=service,
        process=agent_pb2.ProcessInfo(pid=7, exe="/usr/bin/psql", user="web", unit="nginx.service", cgroup="a/b"),
        count=3,
        first_seen_us=1_700_000_000_000_000,
        last_seen_us=1_700_000_000_000_001,
        generation=4,
    )
    event = agent_pb2.Event(kind="tamper", message="chain x was added", at_us=5, culprit_pid=9, culprit_name="nft")
    facts = agent_pb2.Facts(addresses=[bytes([10, 0, 0, 9]), bytes(15) + b"\1"], kernel="6.18")
    facts.units.add(cgroup="system.slice/nginx.service", workload="shop-web")
    facts.listeners.add(protocol="tcp", address=bytes(4), port=5432, workload="shop-db", cgroup="a", process="postgres")
    return {
        "report": agent_pb2.ReportBatch(epoch="e", sequence=1, denials=[denial] * 2, events=[event]),
        "facts": facts,
    }


_POLICY = wire.host_policy_to_wire(SHOP)
_WELCOME = agent_pb2.ControllerMessage(
    welcome=agent_pb2.Welcome(protocol=wire.PROTOCOL_VERSION, host=_HOST, heartbeat_seconds=5)
)
_CHUNKS = [
    agent_pb2.ControllerMessage(chunk=agent_pb2.Chunk(data=part, more=more))
    for part, more in ((_POLICY.SerializeToString()[:200], True), (_POLICY.SerializeToString()[200:], False))
]
_TOKEN = _token_line()
_REPLY = agent_pb2.EnrolReply(
    host="db1", fleet="f", ca=parse_join_token(_TOKEN.decode()).ca, certificate=parse_join_token(_TOKEN.decode()).ca
)
_NONCE = bytes(32)
_AUTHORITY = Authority.create("f", _NOW)
_ISSUED = _AUTHORITY.issue_host(_REQUEST.csr, "db1", _NOW).certificate
_IDENTITY = Identity(
    fleet="f",
    host="db1",
    controllers=("c:1",),
    key=_REQUEST.key,
    certificate=x509.load_der_x509_certificate(_ISSUED).public_bytes(serialization.Encoding.PEM),
    ca=_AUTHORITY.ca_pem,
    valid_from=_NOW,
    valid_until=_NOW,
)
_RENEWED = agent_pb2.RenewReply(certificate=_ISSUED, trust=[_AUTHORITY.ca_der])
_MADE = {name: message.SerializeToString() for name, message in _samples().items()}
_BAD_WIRE = (WireError, DecodeError)

TARGETS = (
    Target("status-page", _status_page, (b"GET /healthz?a=b HTTP/1.1\r\nHost: x\r\n\r\n", b"HEAD / HTTP/1.0\r\n\r\n")),
    Target("host-policy", _host_policy, (_POLICY.SerializeToString(),), (WireError,)),
    Target("host-policy-enforced", _enforced, (_POLICY.SerializeToString(),), (*_BAD_WIRE, KernelError)),
    Target(
        "conversation",
        _conversation,
        (_framed(_WELCOME, agent_pb2.ControllerMessage(policy=_POLICY)), _framed(_WELCOME, *_CHUNKS)),
        _BAD_WIRE,
    ),
    Target("join-token", _token, (_TOKEN,), (EnrolmentError,)),
    Target("enrol-reply", _enrol_reply, (_REPLY.SerializeToString(),), (EnrolmentError, DecodeError)),
    Target("renew-reply", _renew_reply, (_RENEWED.SerializeToString(),), (EnrolmentError, DecodeError)),
    Target(
        "reissue-request",
        _reissue,
        (signed_request(_IDENTITY, _NONCE, _REQUEST.csr).SerializeToString(),),
        (InvalidRequestError, UnauthenticatedError, ForbiddenError, DecodeError),
    ),
    Target("certificate", _certificate, (_ISSUED,), (UnauthenticatedError, ForbiddenError)),
    Target("csr", _csr, (_REQUEST.csr,), (InvalidRequestError,)),
    Target("slot", _slot, (pack(_POLICY.SerializeToString(), 7, 3),), (StateError,)),
    Target("facts", _facts, (_MADE["facts"],), (*_BAD_WIRE, LimitError)),
    Target("report", _report, (_MADE["report"],), (*_BAD_WIRE, LimitError)),
)
