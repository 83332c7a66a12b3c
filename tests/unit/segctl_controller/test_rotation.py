"""The CA's rotation on disk: every step, and every place where it can be killed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from segctl.errors import StateError
from segctl_controller.authority import Authority
from segctl_controller.backup import restore, take_backup
from segctl_controller.clock import Clock
from segctl_controller.config import load_config
from segctl_controller.errors import PreconditionError
from segctl_controller.rotation import Stage, activate, cancel, load_cas, prepare, retire, rotating
from segctl_controller.servercert import ServerCertificate
from segctl_controller.trust import Trust

from tests.controller_harness import NAME, init_state

FLEET = "seg-1"
NOW = datetime.now(UTC)


class KilledError(BaseException):
    """In the place of SIGKILL: no `except Exception` stops it."""


class Killer:
    """Ends the process, so to speak, before its nth operation on files below a folder."""

    def __init__(self) -> None:
        self.folder, self.left = Path("/nowhere"), 0
        sys.addaudithook(self._hook)  # for good: nobody can take one away

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.left or not event.startswith(("os.", "open")):
            return
        if any(str(self.folder) in str(argument) for argument in arguments):
            self.left -= 1
            if not self.left:
                raise KilledError


KILLER = Killer()


def steady(folder: Path) -> Authority:
    folder.mkdir()
    authority = Authority.create(FLEET, NOW)
    authority.save(folder)
    return authority


def step(folder: Path, do: Callable[[Path], None]) -> None:
    with rotating(folder):
        do(folder)


def prepared(folder: Path) -> None:
    prepare(folder, Authority.create(FLEET, NOW))


@pytest.mark.parametrize(
    ("before", "do", "stages"),
    [
        ([], prepared, (Stage.STEADY, Stage.PREPARED)),
        ([prepared], activate, (Stage.PREPARED, Stage.ACTIVE)),
        ([prepared], cancel, (Stage.PREPARED, Stage.STEADY)),
        ([prepared, activate], retire, (Stage.ACTIVE, Stage.STEADY)),
    ],
    ids=["rotate", "activate", "cancel", "retire"],
)
def test_killed_anywhere_a_step_is_not_begun_or_done(
    tmp_path: Path, before: list[Callable[[Path], None]], do: Callable[[Path], None], stages: tuple[Stage, Stage]
) -> None:
    seen = set()
    for number in range(1, 60):
        folder = tmp_path / str(number)
        first = steady(folder)
        for one in before:
            step(folder, one)
        expected = load_cas(folder, FLEET)
        KILLER.folder, KILLER.left = folder, number
        try:
            step(folder, do)
            killed = False
        except KilledError:
            killed = True
        finally:
            KILLER.left = 0
        found = load_cas(folder, FLEET)
        seen.add(found.stage)
        assert found.stage in stages
        if found.stage is stages[0] and do is not retire:
            assert found.der == expected.der
        if do is retire and found.stage is Stage.STEADY:
            assert expected.next is not None and found.der == (expected.next.ca_der,)
        else:
            assert found.current.ca_der == first.ca_der
        # What it serves is of one piece, and the command can be given again.
        credential = found.current.issue_server((NAME,), NOW)
        certificate = x509.load_pem_x509_certificate(credential.certificate)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(found.pem))
        if found.stage is stages[0]:
            step(folder, do)
        with rotating(folder):
            assert load_cas(folder, FLEET).stage is stages[1]
        if not killed:
            break
    assert not killed and number > 4, "the hook saw too little"
    assert seen == set(stages)


def test_steps_are_taken_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    steady(folder)
    for do in (activate, retire, cancel):
        with pytest.raises(PreconditionError, match="the rotation is steady"):
            step(folder, do)
    step(folder, prepared)
    for do in (prepared, retire):
        with pytest.raises(PreconditionError):
            step(folder, do)
    step(folder, activate)
    for do in (prepared, activate, cancel):
        with pytest.raises(PreconditionError):
            step(folder, do)


def test_who_gave_a_certificate_is_known_by_its_serial_number(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    old = steady(folder)
    before_tags = f"{x509.random_serial_number():x}"
    of_old = old.issue_operator("a", NOW).serial
    cas = load_cas(folder, FLEET)
    assert cas.giver(of_old) is cas.giver(before_tags) is cas.current
    step(folder, prepared)
    step(folder, activate)
    cas = load_cas(folder, FLEET)
    of_new = cas.signing.issue_operator("a", NOW).serial
    assert (cas.giver(of_old), cas.giver(before_tags), cas.giver(of_new)) == (cas.current, cas.current, cas.next)
    step(folder, retire)
    cas = load_cas(folder, FLEET)
    assert (cas.giver(of_old), cas.giver(before_tags), cas.giver(of_new)) == (None, None, cas.current)
    step(folder, prepared)
    step(folder, cancel)  # which forgets nothing
    assert load_cas(folder, FLEET).giver(of_old) is None


def test_no_certificate_outlives_its_ca(tmp_path: Path) -> None:
    authority = Authority.create(FLEET, NOW - timedelta(days=3650))
    for pem in (authority.issue_server((NAME,), NOW).certificate, authority.issue_operator("a", NOW).certificate):
        assert x509.load_pem_x509_certificate(pem).not_valid_after_utc == authority.ends
    with pytest.raises(StateError, match="expired at"):
        authority.issue_operator("a", NOW + timedelta(days=4))


def test_a_running_controller_sees_each_step_and_keeps_what_it_had_when_a_file_is_broken(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    steady(folder)
    trust = Trust(folder, FLEET)
    shown = ServerCertificate(trust, (NAME,), Clock())
    first = shown.current()
    assert shown.current() is first
    step(folder, prepared)
    assert trust.cas.stage is Stage.PREPARED
    assert shown.current().cas is trust.cas
    step(folder, activate)
    assert trust.signer(takes_trust=True) is trust.cas.next
    assert trust.signer(takes_trust=False) is trust.cas.current
    before = trust.cas
    (folder / "rotation.json").write_text("{")
    assert trust.cas is before
    (folder / "rotation.json").write_text('{"stage": "active", "first": true}')
    step(folder, retire)
    assert trust.cas.der == (before.der[1],)
    certificate = x509.load_pem_x509_certificate(shown.current().credential.certificate)
    certificate.verify_directly_issued_by(trust.cas.current.certificate)


def test_a_backup_holds_a_rotation(tmp_path: Path) -> None:
    state = init_state(tmp_path)
    fleet = load_config(state).fleet
    with rotating(state):
        prepare(state, Authority.create(fleet, NOW))
        activate(state)
    before = load_cas(state, fleet)
    take_backup(state, tmp_path / "backup", Clock())
    with rotating(state):
        retire(state)
    restore(tmp_path / "backup", state, True, Clock())
    after = load_cas(state, fleet)
    assert (after.stage, after.der) == (before.stage, before.der)
    step(state, retire)
    restore(tmp_path / "backup", tmp_path / "other", False, Clock())
    assert load_cas(tmp_path / "other", fleet).der == before.der
    assert (tmp_path / "other" / "ca-next.key").stat().st_mode & 0o777 == 0o600
