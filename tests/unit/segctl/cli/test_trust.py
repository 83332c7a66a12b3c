"""ca.pem follows what the controller says, and nothing else of the configuration does."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

from segctl.cli.config import ClientConfig
from segctl.cli.trust import LARGEST_CA, MOST_CAS, keep_trust

from tests.unit.segctl.cli.pki import Authority


def config_in(folder: Path, ca: bytes) -> ClientConfig:
    (folder / "ca.pem").write_bytes(ca)
    return ClientConfig(folder, "127.0.0.1:1", "shop", "alice", ca, b"", b"")


def der(authority: Authority) -> bytes:
    return ssl.PEM_cert_to_DER_cert(authority.pem.decode())


def test_both_cas_while_one_is_rotated_and_the_new_one_after(tmp_path: Path) -> None:
    old, new = Authority(), Authority()
    config = config_in(tmp_path, old.pem)
    keep_trust(config, [der(old), der(new)])
    both = (tmp_path / "ca.pem").read_bytes()
    context = ssl.create_default_context(cadata=both.decode())
    assert len(context.get_ca_certs()) == 2
    keep_trust(replace(config, ca=both), [der(new)])
    assert ssl.PEM_cert_to_DER_cert((tmp_path / "ca.pem").read_text()) == der(new)
    assert [path.name for path in tmp_path.iterdir()] == ["ca.pem"]


def test_what_changes_nothing(tmp_path: Path) -> None:
    old = Authority()
    config = config_in(tmp_path, b"Subject: for people\n" + old.pem)
    before = (tmp_path / "ca.pem").stat().st_ino
    for cas in ([], [der(old)], [der(Authority())] * (MOST_CAS + 1), [b"x" * (LARGEST_CA + 1)]):
        keep_trust(config, cas)
    assert (tmp_path / "ca.pem").stat().st_ino == before


def test_a_configuration_that_cannot_be_written_stays(tmp_path: Path) -> None:
    old = Authority()
    config = replace(config_in(tmp_path, old.pem), directory=tmp_path / "gone")
    keep_trust(config, [der(Authority())])
    assert (tmp_path / "ca.pem").read_bytes() == old.pem
