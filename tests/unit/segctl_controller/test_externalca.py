"""An intermediate of a company's CA as the fleet's: what fits, what does not, and what the rest of its PKI can do."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from segctl.errors import StateError
from segctl.proto.v1 import admin_pb2
from segctl_agent.channel import open_channel
from segctl_agent.enrol import enrol
from segctl_agent.jointoken import parse_join_token
from segctl_agent.renew import renew
from segctl_controller.authority import Authority, key_pem
from segctl_controller.clock import Clock
from segctl_controller.externalca import external_authority
from segctl_controller.main import main
from segctl_controller.setup import add_operator, create_controller, open_store
from segctl_controller.store.records import Role

from tests.controller_harness import NAME, FakeAgent, Identity, make_csr, running_controller

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


class Company:
    """A root, and whatever it signs."""

    def __init__(self, pathlen: int | None = None) -> None:
        self.key: Any = ec.generate_private_key(ec.SECP384R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example Root")])
        self.root = self.sign(self.key.public_key(), "Example Root", pathlen=pathlen)

    def sign(
        self,
        key: Any,
        name: str,
        *extensions: x509.ExtensionType,
        ca: bool = True,
        pathlen: int | None = 0,
        usage: bool = True,
        starts: datetime = NOW - DAY,
        ends: datetime = NOW + 900 * DAY,
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(starts)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca, pathlen if ca else None), critical=True)
        )
        if usage:
            signs = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
            builder = builder.add_extension(signs, critical=True)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=not isinstance(extension, x509.SubjectKeyIdentifier))
        return builder.sign(self.key, hashes.SHA384())


def write(folder: Path, key: Any, *chain: x509.Certificate) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    certificate_file, key_file = folder / "ca.pem", folder / "ca.key"
    certificate_file.write_bytes(b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chain))
    key_file.touch(0o600)
    key_file.write_bytes(key_pem(key))
    return certificate_file, key_file


KEYS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("kind", KEYS)
async def test_a_fleet_under_an_intermediate(tmp_path: Path, kind: str) -> None:
    company, key = Company(), KEYS[kind]()
    intermediate = company.sign(key.public_key(), "segctl of Example")
    files = write(tmp_path / "given", key, intermediate, company.root)
    state = tmp_path / "c" / "controller"
    config = create_controller(state, NAME, (NAME,), 0, 0, Clock(), external=files)
    store = open_store(state)
    add_operator(state, store, "root", Role.ADMIN, tmp_path / "c" / "operators" / "root", Clock())
    store.close()
    assert (
        company.root.public_bytes(serialization.Encoding.PEM)
        not in (tmp_path / "c" / "operators" / "root" / "ca.pem").read_bytes()
    )
    async with running_controller(tmp_path / "c") as lab:
        join = parse_join_token((await lab.token({})).join)
        await asyncio.to_thread(enrol, tmp_path / "a", join, "web1", False, datetime.now(UTC))
        renewed = await asyncio.to_thread(renew, tmp_path / "a", datetime.now(UTC))
        x509.load_pem_x509_certificate(renewed.certificate).verify_directly_issued_by(intermediate)
        async with FakeAgent(lab, "web1", Identity(renewed.ca, renewed.certificate, renewed.key)).session() as session:
            assert (await session.receive()).welcome.host == "web1"
        # Whoever knows the root alone can tell what listens there.
        shown = await asyncio.to_thread(served, lab.controller.config.enrol_port, company.root)
        assert ("URI", f"spiffe://{config.fleet}/controller") in shown["subjectAltName"]

        # Another intermediate of the company can neither be a host here, nor this fleet's controller.
        sibling_key = ec.generate_private_key(ec.SECP256R1())
        sibling = Authority(config.fleet, company.sign(sibling_key.public_key(), "Web of Example"), sibling_key)
        host_key = ec.generate_private_key(ec.SECP256R1())
        issued = sibling.issue_host(make_csr(host_key), "web1", NOW).certificate
        chain = x509.load_der_x509_certificate(issued).public_bytes(serialization.Encoding.PEM) + sibling.ca_pem
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await lab.admin_as(Identity(renewed.ca, chain, key_pem(host_key))).WhoAmI(admin_pb2.WhoAmIRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    impostor = sibling.issue_server((NAME,), NOW)
    server = grpc.aio.server()
    port = server.add_secure_port(
        f"{NAME}:0", grpc.ssl_server_credentials([(impostor.key, impostor.certificate)], renewed.ca, True)
    )
    await server.start()
    async with open_channel(renewed, f"{NAME}:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="CERTIFICATE_VERIFY_FAILED"):
            await channel.unary_unary("/segctl.v1.Agent/Renew")(b"")
    await server.stop(0)


def served(port: int, root: x509.Certificate) -> dict[str, Any]:
    context = ssl.create_default_context(cadata=root.public_bytes(serialization.Encoding.PEM).decode())
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((NAME, port), 5) as link,
        context.wrap_socket(link, server_hostname=NAME) as tls,
    ):
        return dict(tls.getpeercert() or {})


def refused(tmp_path: Path, key: Any, *chain: x509.Certificate, names: tuple[str, ...] = (NAME,)) -> str:
    with pytest.raises(StateError) as caught:
        external_authority("seg-1", *write(tmp_path / "given", key, *chain), names, NOW)
    return str(caught.value)


def test_what_is_no_ca_for_a_fleet(tmp_path: Path) -> None:
    company, key = Company(), ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    assert "CA:FALSE" in refused(tmp_path, key, company.sign(public, "x", ca=False))
    assert "lacks the extension keyUsage" in refused(tmp_path, key, company.sign(public, "x", usage=False))
    assert "has to hold for 30 days" in refused(tmp_path, key, company.sign(public, "x", ends=NOW + 29 * DAY))
    assert "valid only from" in refused(tmp_path, key, company.sign(public, "x", starts=NOW + DAY))
    assert "is not the key" in refused(tmp_path, ec.generate_private_key(ec.SECP256R1()), company.sign(public, "x"))


def test_keys_that_tls_cannot_use(tmp_path: Path) -> None:
    company = Company()
    for key in (
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 1024),
    ):
        assert "must be ECDSA on P-256 or P-384, or RSA of 2048 bits" in refused(
            tmp_path, key, company.sign(key.public_key(), "x")
        )


def test_a_path_that_does_not_hold(tmp_path: Path) -> None:
    company, other, key = Company(), Company(), ec.generate_private_key(ec.SECP256R1())
    intermediate = company.sign(key.public_key(), "x")
    assert "is not signed by" in refused(tmp_path, key, intermediate, other.root)
    narrow = Company(pathlen=0)
    assert "permits no CA so far below" in refused(tmp_path, key, narrow.sign(key.public_key(), "x"), narrow.root)
    assert external_authority("seg-1", *write(tmp_path / "given", key, intermediate, company.root), (NAME,), NOW)
    assert external_authority("seg-1", *write(tmp_path / "given", key, intermediate), (NAME,), NOW)


def test_constraints_under_which_its_certificates_would_be_refused(tmp_path: Path) -> None:
    company, key = Company(), ec.generate_private_key(ec.SECP256R1())

    def with_(*extensions: x509.ExtensionType) -> x509.Certificate:
        return company.sign(key.public_key(), "x", *extensions)

    elsewhere = x509.NameConstraints([x509.DNSName("example.org")], None)
    assert "look at its name constraints" in refused(tmp_path, key, with_(elsewhere), names=("ctl.example.net",))
    clients = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    assert "extended key usage" in refused(tmp_path, key, with_(clients))
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    assert "critical extensions" in refused(tmp_path, key, with_(unknown))
    identified = x509.SubjectKeyIdentifier(b"by the company's own rule")
    assert external_authority("seg-1", *write(tmp_path / "given", key, with_(identified)), (NAME,), NOW)
    fitting = x509.NameConstraints([x509.DNSName("example.net"), x509.IPAddress(ip_network("192.0.2.0/24"))], None)
    files = write(tmp_path / "given", key, with_(fitting))
    assert external_authority("seg-1", *files, ("ctl.example.net", "192.0.2.7"), NOW)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    company, key = Company(), ec.generate_private_key(ec.SECP256R1())
    certificate_file, key_file = write(tmp_path / "given", key, company.sign(key.public_key(), "x"))
    key_file.chmod(0o644)
    with pytest.raises(StateError, match="chmod 600"):
        external_authority("seg-1", certificate_file, key_file, (NAME,), NOW)
    key_file.chmod(0o600)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    key_file.write_bytes(locked)
    with pytest.raises(StateError, match="openssl pkey"):
        external_authority("seg-1", certificate_file, key_file, (NAME,), NOW)
    for path in (key_file, certificate_file):
        path.write_bytes(b"no PEM")
        with pytest.raises(StateError, match="in PEM"):
            external_authority("seg-1", certificate_file, key_file, (NAME,), NOW)


def test_init_and_rotate_take_one_from_files(tmp_path: Path) -> None:
    company, key = Company(), ec.generate_private_key(ec.SECP256R1())
    certificate_file, key_file = write(tmp_path / "given", key, company.sign(key.public_key(), "first"), company.root)
    state = ["--state", str(tmp_path / "state")]
    files = ["--ca-certificate", str(certificate_file), "--ca-key", str(key_file)]
    init = ["init", *state, "--listen", NAME, "--name", NAME, "--admin", "root", "--admin-out", str(tmp_path / "root")]
    runner = CliRunner()
    assert runner.invoke(main, [*init, *files[:2]]).exit_code == 2
    done = runner.invoke(main, [*init, *files])
    assert done.exit_code == 0, done.output
    done = runner.invoke(main, ["ca", "rotate", *state, *files])
    assert done.exit_code == 1 and "the key of the CA that is in use" in done.output
    other = ec.generate_private_key(ec.SECP384R1())
    write(tmp_path / "given", other, company.sign(other.public_key(), "first"), company.root)
    done = runner.invoke(main, ["ca", "rotate", *state, *files])
    assert done.exit_code == 1 and "is called CN=first, too" in done.output
    write(tmp_path / "given", other, company.sign(other.public_key(), "second"), company.root)
    assert runner.invoke(main, ["ca", "rotate", *state, *files]).exit_code == 0
    assert runner.invoke(main, ["ca", "activate", *state]).exit_code == 0
    text = runner.invoke(main, ["ca", "status", *state]).output
    assert "CN=first" in text and "CN=second" in text
    assert [line.split("\t")[2] for line in text.splitlines() if line.startswith("CN=")] == ["trusted", "signs"]
    done = runner.invoke(main, ["ca", "retire", *state])
    assert done.exit_code == 1 and "operator root" in done.output
    assert runner.invoke(main, ["admin", "renew", "root", "--out", str(tmp_path / "new"), *state]).exit_code == 0
    done = runner.invoke(main, ["ca", "retire", *state])
    assert done.exit_code == 0, done.output
    shown = x509.load_pem_x509_certificates((tmp_path / "state" / "ca.pem").read_bytes())
    assert [c.subject.rfc4514_string() for c in shown] == ["CN=second", "CN=Example Root"]
