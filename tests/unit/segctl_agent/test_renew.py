"""A renewal that is killed at any of its steps leaves an identity that the controller takes."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from segctl.errors import EnrolmentError, StateError
from segctl.proto.v1 import agent_pb2 as pb
from segctl_agent.credentials import Identity, identity_version, load_identity, save_identity
from segctl_agent.renew import KEY_FILE, renew

from tests.unit.segctl_agent.pki import DAY, Authority

SERVER = get_context("forkserver")


class Desk:
    """What Agent.Renew answers: the same for the same key, whoever was killed meanwhile. On disk, as it must be."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        self._authority, self._folder = authority, folder
        folder.mkdir(exist_ok=True)

    def __call__(self, identity: Identity, csr: bytes) -> pb.RenewReply:
        return pb.RenewReply(certificate=self.certificate(identity, csr))

    def certificate(self, identity: Identity, csr: bytes) -> bytes:
        key = x509.load_der_x509_csr(csr).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        place = self._folder / str(key.public_numbers().x)
        if not place.exists():
            certificate = self._authority.sign(key, identity.spiffe, end=self._authority.now + 60 * DAY)
            place.write_bytes(certificate.public_bytes(serialization.Encoding.DER))
        return place.read_bytes()

    @property
    def given(self) -> list[bytes]:
        found = [x509.load_der_x509_certificate(p.read_bytes()) for p in self._folder.iterdir()]
        return [c.public_bytes(serialization.Encoding.PEM) for c in found]


def killed_at(step: int, state: Path, desk: Connection, now: datetime) -> None:
    """The body of a process that ends with SIGKILL before its `step`th operation on the state folder."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event.startswith(("os.", "open", "shutil.")) and any(str(state) in str(a) for a in arguments):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    def ask(_identity: Identity, csr: bytes) -> pb.RenewReply:
        desk.send_bytes(csr)
        return pb.RenewReply(certificate=desk.recv_bytes())

    sys.addaudithook(hook)
    renew(state, now, ask)


def ends(step: int, state: Path, desk: Desk, identity: Identity, now: datetime) -> int:
    """The exit code of one such process, which is answered until then."""
    near, far = Pipe()
    process = SERVER.Process(target=killed_at, args=(step, state, far, now))
    process.start()
    while process.sentinel not in (ready := wait([near, process.sentinel], 20)):
        assert near in ready, "it hangs"
        near.send_bytes(desk.certificate(identity, near.recv_bytes()))
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def test_killed_at_any_step_it_leaves_an_identity_that_works(tmp_path: Path) -> None:
    SERVER.set_forkserver_preload([killed_at.__module__])
    authority, state = Authority(), tmp_path / "state"
    state.mkdir()
    desk = Desk(authority, tmp_path / "desk")
    old = authority.identity("web-1", ("c:1",))
    save_identity(state, old)
    for step in range(1, 200):
        before = load_identity(state)
        assert before is not None
        code = ends(step, state, desk, before, authority.now)
        found = load_identity(state)
        assert found is not None
        assert found.certificate in (before.certificate, *desk.given), f"step {step}"
        assert found.enrolment_id == old.enrolment_id
        if code == 0:
            break
        assert code == -signal.SIGKILL, f"step {step}: {code}"
    assert step > 15, "the hook saw too little"
    assert found.certificate != old.certificate
    assert {p.name for p in state.iterdir()} == {"identity", "renewal.lock"}


def test_what_root_renews_belongs_to_the_agents_user(tmp_path: Path) -> None:
    authority, user = Authority(), 65534
    os.chown(tmp_path, user, user)
    save_identity(tmp_path, authority.identity("web-1", ("c:1",)))

    def ask(identity: Identity, csr: bytes) -> pb.RenewReply:
        key = x509.load_der_x509_csr(csr).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        certificate = authority.sign(key, identity.spiffe, end=authority.now + 60 * DAY)
        return pb.RenewReply(certificate=certificate.public_bytes(serialization.Encoding.DER))

    renew(tmp_path, authority.now, ask)
    assert {path.name: path.stat().st_uid for path in tmp_path.rglob("*") if path.stat().st_uid != user} == {}


def test_asking_again_is_the_same_question(tmp_path: Path) -> None:
    authority = Authority()
    save_identity(tmp_path, authority.identity("web-1", ("c:1",)))
    asked: list[object] = []

    def lost(_identity: Identity, csr: bytes) -> pb.RenewReply:
        asked.append(x509.load_der_x509_csr(csr).public_key())
        raise EnrolmentError("the line broke")

    for _ in range(2):
        with pytest.raises(EnrolmentError, match="the line broke"):
            renew(tmp_path, authority.now, lost)
    assert asked[0] == asked[1]
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    desk = Desk(authority, tmp_path / "desk")
    first = renew(tmp_path, authority.now, desk)
    second = renew(tmp_path, authority.now, desk)  # a key that is in use is never asked for again
    assert len({first.key, second.key}) == len(desk.given) == 2
    assert load_identity(tmp_path) == second
    assert second.enrolment_id == first.enrolment_id


def test_what_the_controller_may_not_answer(tmp_path: Path) -> None:
    authority, other = Authority(), Authority()
    old = authority.identity("web-1", ("c:1",))
    save_identity(tmp_path, old)

    def signed(by: Authority, uri: str = old.spiffe, **dates: datetime):
        def answer(_identity: Identity, csr: bytes) -> pb.RenewReply:
            key = x509.load_der_x509_csr(csr).public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            return pb.RenewReply(certificate=by.sign(key, uri, **dates).public_bytes(serialization.Encoding.DER))

        return answer

    foreign = ec.generate_private_key(ec.SECP256R1()).public_key()
    answers = {
        "not issued by the fleet's CA": signed(other),
        "does not name": signed(authority, f"spiffe://{authority.fleet}/host/db-1"),
        "expired at": signed(authority, end=authority.now - DAY / 2),
        "for another key": lambda *_: pb.RenewReply(
            certificate=authority.sign(foreign, old.spiffe).public_bytes(serialization.Encoding.DER)
        ),
        "no certificate": lambda *_: pb.RenewReply(certificate=b"certainly"),
    }
    for words, answer in answers.items():
        with pytest.raises(EnrolmentError, match=words) as caught:
            renew(tmp_path, authority.now, answer)
        assert "the old certificate stays" in str(caught.value)
        assert load_identity(tmp_path) == old


def test_the_cas_that_come_with_a_certificate_are_trusted_from_then_on(tmp_path: Path) -> None:
    old_ca, new_ca, third = Authority(), Authority(), Authority()
    old = old_ca.identity("web-1", ("c:1",))
    save_identity(tmp_path, old)

    def answered(by: Authority, *trust: bytes):
        def answer(_identity: Identity, csr: bytes) -> pb.RenewReply:
            key = x509.load_der_x509_csr(csr).public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            certificate = by.sign(key, old.spiffe).public_bytes(serialization.Encoding.DER)
            return pb.RenewReply(certificate=certificate, trust=trust)

        return answer

    leaf = new_ca.sign(ec.generate_private_key(ec.SECP256R1()).public_key(), old.spiffe)
    refused = {
        "not issued by the fleet's CA": answered(third, old_ca.der, new_ca.der),
        "no certificate": answered(new_ca, *[new_ca.der] * 5),
        "something that is no certificate": answered(new_ca, b"x", new_ca.der),
        "that is no certificate": answered(new_ca, new_ca.der, leaf.public_bytes(serialization.Encoding.DER)),
    }
    for words, answer in refused.items():
        with pytest.raises(EnrolmentError, match=words):
            renew(tmp_path, old_ca.now, answer)
        assert load_identity(tmp_path) == old
    both = renew(tmp_path, old_ca.now, answered(new_ca, old_ca.der, new_ca.der))
    assert (both.ca, load_identity(tmp_path)) == (old_ca.pem + new_ca.pem, both)
    same = renew(tmp_path, old_ca.now, answered(old_ca))  # a controller of before says nothing of CAs
    assert same.ca == both.ca
    alone = renew(tmp_path, old_ca.now, answered(new_ca, new_ca.der))
    assert (alone.ca, load_identity(tmp_path)) == (new_ca.pem, alone)


def test_an_expired_certificate_says_what_to_do(tmp_path: Path) -> None:
    authority = Authority()
    save_identity(tmp_path, authority.identity("web-1", ("c:1",)))
    with pytest.raises(EnrolmentError, match=r"expired at .*segctl-agent enrol --replace"):
        renew(tmp_path, authority.now + 31 * DAY, lambda *_: pb.RenewReply())


def test_one_renewal_at_a_time(tmp_path: Path) -> None:
    authority = Authority()
    save_identity(tmp_path, authority.identity("web-1", ("c:1",)))

    def meanwhile(_identity: Identity, _csr: bytes) -> pb.RenewReply:
        with pytest.raises(StateError, match="renewed already"):
            renew(tmp_path, authority.now, lambda *_: pb.RenewReply())
        raise EnrolmentError("enough")

    with pytest.raises(EnrolmentError, match="enough"):
        renew(tmp_path, authority.now, meanwhile)


def test_the_version_on_disk_tells_one_identity_from_the_next(tmp_path: Path) -> None:
    assert identity_version(tmp_path) == (0, 0)
    identity = Authority().identity("web-1", ("c:1",))
    versions = set()
    for number in range(5):
        save_identity(tmp_path, replace(identity, enrolled_as=str(number)))
        versions.add(identity_version(tmp_path))
    assert len(versions) == 5
    assert load_identity(tmp_path) == replace(identity, enrolled_as="4")
    assert identity.valid_until > datetime.now(UTC)
