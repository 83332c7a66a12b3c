"""The client configuration: a directory with client.json, ca.pem, and unless a token is shown, cert.pem and key.pem."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

from segctl.cli.exits import CliError, Exit

GET_ONE = (
    "An administrator of the controller makes one: segctl-controller admin add NAME --role viewer --out DIR\n"
    "Then name it: segctl --config DIR ..., or SEGCTL_CONFIG=DIR, or move it to ~/.config/segctl"
)
NO_API = (
    'It is "api": "HOST:7446" where the controller has an api_port: segctl-controller admin client --out DIR writes it'
)
LIMIT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Who we are and whom we trust. `controller` is host:port, and so is `api`, where a token is taken (empty: nowhere
    known); the rest is PEM, the key kept out of every repr. Without a certificate, `name`, it and the key are empty."""

    directory: Path
    controller: str
    fleet: str
    name: str
    ca: bytes
    certificate: bytes
    key: bytes = field(repr=False)
    api: str = ""

    def by_token(self) -> ClientConfig:
        """For a token in place of the certificate. Raises CliError where none is taken."""
        if not self.api:
            raise CliError(
                f"{self.directory / 'client.json'}: names no `api`, where tokens are taken", NO_API, Exit.USAGE
            )
        return replace(self, controller=self.api, certificate=b"", key=b"")

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.controller.rpartition(":")
        return host.strip("[]"), int(port)


def load_config(directory: Path) -> ClientConfig:
    """Raises CliError (exit 2) naming the file and the mend. A key that others may read is refused."""
    if not directory.is_dir():
        raise CliError(f"{directory}: no client configuration here", GET_ONE, Exit.USAGE)
    client = _client(directory / "client.json")
    key = directory / "key.pem"
    certified = bool(client["name"]) or key.exists()
    content = _read(key) if certified else b""
    mode = stat.S_IMODE(key.stat().st_mode) if certified else 0
    if mode & 0o077:
        raise CliError(f"{key}: others may read this key (mode {mode:04o})", f"chmod 600 {key}", Exit.USAGE)
    return ClientConfig(
        directory=directory,
        controller=client["controller"],
        fleet=client["fleet"],
        name=client["name"],
        ca=_read(directory / "ca.pem"),
        certificate=_read(directory / "cert.pem") if certified else b"",
        key=content,
        api=client["api"],
    )


def _client(path: Path) -> dict[str, str]:
    try:
        values = json.loads(_read(path))
    except ValueError as error:
        raise CliError(f"{path}: not JSON: {error}", GET_ONE, Exit.USAGE) from error
    wanted = ("controller", "fleet", "name")
    # Without a certificate nobody is named.
    values = {"name": "", "api": "", **values} if isinstance(values, dict) and values.get("api") else values
    texts = isinstance(values, dict) and all(isinstance(values.get(k), str) for k in wanted)
    if not texts or not all(values[k] or (k == "name" and values.get("api")) for k in wanted):
        raise CliError(f"{path}: must be an object with the texts {', '.join(wanted)}", GET_ONE, Exit.USAGE)
    found = {**{k: values[k] for k in wanted}, "api": str(values.get("api", ""))}
    for name in ("controller", "api"):
        host, _, port = found[name].rpartition(":")
        if (found[name] or name == "controller") and not (host and port.isdigit() and 0 < int(port) < 65536):
            raise CliError(f"{path}: {name} {found[name]!r} is not HOST:PORT", "Write host:7443.", Exit.USAGE)
    return found


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(LIMIT)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror or error}", GET_ONE, Exit.USAGE) from error
