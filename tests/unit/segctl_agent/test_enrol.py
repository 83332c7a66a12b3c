"""Enrolment against a real gRPC server over TLS, one refusal after another."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from segctl.errors import ControllerUnreachableError, EnrolmentError, StateError
from segctl.proto.v1 import agent_pb2 as pb
from segctl.proto.v1 import agent_pb2_grpc as rpc
from segctl_agent.credentials import Identity, load_identity, save_identity
from segctl_agent.enrol import enrol
from segctl_agent.jointoken import parse_join_token
from segctl_agent.slots import Slots

from tests.unit.segctl_agent.pki import DAY, Authority

Answer = Callable[[pb.EnrolRequest], pb.EnrolReply | tuple[grpc.StatusCode, str]]


class Servicer(rpc.EnrolmentServicer):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def Enrol(self, request: pb.EnrolRequest, context: grpc.ServicerContext) -> pb.EnrolReply:
        answer = self._answer(request)
        if isinstance(answer, tuple):
            context.abort(*answer)
        return answer


@contextmanager
def controller(authority: Authority, answer: Answer, **validity: datetime) -> Iterator[str]:
    """A controller's enrolment port; yields its address."""
    server = grpc.server(ThreadPoolExecutor(2))
    rpc.add_EnrolmentServicer_to_server(Servicer(answer), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([authority.server(**validity)]))
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def granted(authority: Authority, host: str = "web-1", **changes: bytes | str) -> Answer:
    def answer(request: pb.EnrolRequest) -> pb.EnrolReply:
        key = x509.load_der_x509_csr(request.csr).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        certificate = authority.sign(key, f"spiffe://{authority.fleet}/host/{host}")
        fields: dict[str, bytes | str] = {
            "host": host,
            "certificate": certificate.public_bytes(serialization.Encoding.DER),
            "ca": authority.der,
            "fleet": authority.fleet,
        }
        return pb.EnrolReply(**{**fields, **changes})  # type: ignore[arg-type]

    return answer


def run(
    state: Path, authority: Authority, address: str, replace: bool = False, now: datetime | None = None
) -> Identity:
    token = parse_join_token(authority.token((address,)))
    return enrol(state, token, "web-1", replace, now or datetime.now(UTC))


def test_enrolment_stores_a_private_identity(tmp_path: Path) -> None:
    authority = Authority()
    requests: list[pb.EnrolRequest] = []

    def answer(request: pb.EnrolRequest) -> pb.EnrolReply | tuple[grpc.StatusCode, str]:
        requests.append(request)
        return granted(authority)(request)

    with controller(authority, answer) as address:
        identity = run(tmp_path, authority, address)
    assert load_identity(tmp_path) == identity
    assert (identity.host, identity.fleet, identity.controllers) == ("web-1", "fleet-1", ("127.0.0.1:7443",))
    assert (tmp_path / "identity" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert requests[0].token == b"s3cret"
    assert requests[0].hostname == "web-1"
    csr = x509.load_der_x509_csr(requests[0].csr)
    assert csr.is_signature_valid
    key = csr.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


REFUSALS = {
    "expired": (grpc.StatusCode.PERMISSION_DENIED, "the token expired at noon", "expired at noon.*segctl token create"),
    "used": (grpc.StatusCode.UNAUTHENTICATED, "the token is used up", "used up.*segctl token create"),
    "taken": (grpc.StatusCode.ALREADY_EXISTS, "web-1 is enrolled", "'web-1' is taken: web-1 is enrolled.*--name"),
    "other": (grpc.StatusCode.INVALID_ARGUMENT, "the CSR is not P-256", "refused to enrol this host: the CSR"),
    "mute": (grpc.StatusCode.INTERNAL, "", "no reason"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_carry_the_controllers_reason(tmp_path: Path, name: str) -> None:
    authority = Authority()
    code, text, expected = REFUSALS[name]
    with (
        controller(authority, lambda _: (code, text)) as address,
        pytest.raises(EnrolmentError, match=expected),
    ):
        run(tmp_path, authority, address)
    assert load_identity(tmp_path) is None


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{link.getsockname()[1]}"
        with pytest.raises(ControllerUnreachableError, match=f"{address}: cannot connect .*refused"):
            run(tmp_path, Authority(), address)


def test_the_second_address_is_tried(tmp_path: Path) -> None:
    authority = Authority()
    with socket.socket() as link, controller(authority, granted(authority)) as address:
        link.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{link.getsockname()[1]}"
        token = parse_join_token(authority.token((dead, address)))
        assert enrol(tmp_path, token, "web-1", False, datetime.now(UTC)).host == "web-1"


def test_a_controller_of_another_ca_is_named_as_such(tmp_path: Path) -> None:
    ours, theirs = Authority(), Authority("other")
    seen: list[pb.EnrolRequest] = []

    def answer(request: pb.EnrolRequest) -> tuple[grpc.StatusCode, str]:
        seen.append(request)
        return grpc.StatusCode.INTERNAL, "never"

    with (
        controller(theirs, answer) as address,
        pytest.raises(ControllerUnreachableError, match="not from the fleet's CA"),
    ):
        run(tmp_path, ours, address)
    assert not seen  # the secret was never shown to it


def test_an_expired_controller_certificate_is_named(tmp_path: Path) -> None:
    authority = Authority()
    validity = {"start": authority.now - 3 * DAY, "end": authority.now - 2 * DAY}
    with (
        controller(authority, granted(authority), **validity) as address,
        pytest.raises(ControllerUnreachableError, match=r"its certificate is valid from .* this host's clock says"),
    ):
        run(tmp_path, authority, address)


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(days=4000)], ids=["past", "future"])
def test_a_clock_that_jumped_is_named_before_anything_is_sent(tmp_path: Path, jump: timedelta) -> None:
    authority = Authority()
    now = authority.now + jump
    with pytest.raises(EnrolmentError, match=rf"clock says {now:%Y-%m-%d}.*set the clock"):
        run(tmp_path, authority, "127.0.0.1:1", now=now)


def test_a_new_certificate_from_the_future_is_a_clock_skew(tmp_path: Path) -> None:
    authority = Authority()
    early = authority.now - timedelta(hours=30)
    older = Authority(now=authority.now - 30 * DAY)  # its CA is long valid, its host certificates are of today
    older.now = authority.now

    with (
        controller(older, granted(older)) as address,
        pytest.raises(EnrolmentError, match="new certificate is valid only"),
    ):
        run(tmp_path, older, address, now=early)


def other_certificate(uri: str, authority: Authority) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return authority.sign(key, uri).public_bytes(serialization.Encoding.DER)


def test_answers_that_must_not_be_trusted(tmp_path: Path) -> None:
    ours, theirs = Authority(), Authority("other")
    cases: list[tuple[dict[str, bytes | str], str]] = [
        ({"ca": theirs.der}, "another CA"),
        ({"certificate": b"junk"}, "no certificate"),
        ({"host": ""}, "without a host name"),
        ({"fleet": "elsewhere"}, "does not name spiffe://elsewhere/host/web-1"),
        ({"certificate": other_certificate("spiffe://fleet-1/host/web-1", ours)}, "another key"),
        ({"certificate": other_certificate("spiffe://fleet-1/host/web-1", theirs)}, "not issued by the fleet's CA"),
    ]
    for changes, expected in cases:
        with controller(ours, granted(ours, **changes)) as address, pytest.raises(EnrolmentError, match=expected):
            run(tmp_path, ours, address)
        assert load_identity(tmp_path) is None


def test_already_enrolled_needs_replace(tmp_path: Path) -> None:
    authority = Authority()
    Slots(tmp_path).write(b"generation", 1)
    with controller(authority, granted(authority)) as address:
        first = run(tmp_path, authority, address)
        Slots(tmp_path).write(b"generation", 1)
        with pytest.raises(EnrolmentError, match=r"already enrolled as web-1 .*--replace"):
            run(tmp_path, authority, address)
        assert load_identity(tmp_path) == first
        second = run(tmp_path, authority, address, replace=True)
    assert load_identity(tmp_path) == second != first
    assert Slots(tmp_path).read(bytes).stored is not None  # the same host: its last good generation stays


def test_another_name_drops_the_generation_of_the_old_one(tmp_path: Path) -> None:
    authority = Authority()
    with controller(authority, granted(authority)) as address:
        run(tmp_path, authority, address)
    Slots(tmp_path).write(b"generation", 1)
    with controller(authority, granted(authority, host="web-2")) as address:
        run(tmp_path, authority, address, replace=True)
    assert Slots(tmp_path).read(bytes).stored is None


def test_state_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be written"):
        run(tmp_path / "file" / "state", Authority(), "127.0.0.1:1")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    save_identity(tmp_path, Authority().identity("web-1", ("c:1",)))
    (tmp_path / "identity" / "key.pem").chmod(0o640)
    with pytest.raises(StateError, match=r"key\.pem can be read by others \(mode 0640\).*chmod 600"):
        load_identity(tmp_path)


def test_damaged_identities(tmp_path: Path) -> None:
    authority = Authority()
    for name, content in (("cert.pem", b"x"), ("agent.json", b"{"), ("agent.json", b"{}"), ("ca.pem", Authority().pem)):
        save_identity(tmp_path, authority.identity("web-1", ("c:1",)))
        (tmp_path / "identity" / name).write_bytes(content)
        with pytest.raises(StateError, match="segctl-agent enrol --replace"):
            load_identity(tmp_path)
    (tmp_path / "identity" / "key.pem").unlink()
    with pytest.raises(StateError, match=r"key\.pem.*incomplete"):
        load_identity(tmp_path)


def test_a_replacement_cut_off_between_its_renames_is_undone(tmp_path: Path) -> None:
    identity = Authority().identity("web-1", ("c:1",))
    save_identity(tmp_path, identity)
    (tmp_path / "identity").rename(tmp_path / "identity.old")
    assert load_identity(tmp_path) == identity


def test_root_leaves_the_files_to_the_owner_of_the_state_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 4711, 4711)
    save_identity(tmp_path, Authority().identity("web-1", ("c:1",)))
    owners = {p.stat().st_uid for p in (tmp_path / "identity").iterdir()} | {(tmp_path / "identity").stat().st_uid}
    assert owners == {4711}


@pytest.mark.parametrize(("days", "expected"), [(0, ""), (31, "expired at"), (-5, "valid only from")])
def test_the_agent_finds_out_itself_when_its_certificate_is_no_good(days: int, expected: str) -> None:
    authority = Authority()
    complaint = authority.identity("web-1", ("c:1",)).complaint(authority.now + days * DAY)
    assert (expected in complaint) if expected else complaint == ""
