"""The client configuration: a directory with client.json, ca.pem, cert.pem and key.pem."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass, field
from pathlib import Path

from segctl.cli.exits import CliError, Exit

GET_ONE = (
    "An administrator of the controller makes one: segctl-controller admin add NAME --role viewer --out DIR\n"
    "Then name it: segctl --config DIR ..., or SEGCTL_CONFIG=DIR, or move it to ~/.config/segctl"
)
LIMIT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Who we are and whom we trust. `controller` is host:port; the rest is PEM, the key kept out of every repr."""

    directory: Path
    controller: str
    fleet: str
    name: str
    ca: bytes
    certificate: bytes
    key: bytes = field(repr=False)

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
    content = _read(key)
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & 0o077:
        raise CliError(f"{key}: others may read this key (mode {mode:04o})", f"chmod 600 {key}", Exit.USAGE)
    return ClientConfig(
        directory=directory,
        controller=client["controller"],
        fleet=client["fleet"],
        name=client["name"],
        ca=_read(directory / "ca.pem"),
        certificate=_read(directory / "cert.pem"),
        key=content,
    )


def _client(path: Path) -> dict[str, str]:
    try:
        values = json.loads(_read(path))
    except ValueError as error:
        raise CliError(f"{path}: not JSON: {error}", GET_ONE, Exit.USAGE) from error
    wanted = ("controller", "fleet", "name")
    if not isinstance(values, dict) or not all(isinstance(values.get(k), str) and values[k] for k in wanted):
        raise CliError(f"{path}: must be an object with the texts {', '.join(wanted)}", GET_ONE, Exit.USAGE)
    host, _, port = values["controller"].rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise CliError(f"{path}: controller {values['controller']!r} is not HOST:PORT", "Write host:7443.", Exit.USAGE)
    return {k: values[k] for k in wanted}


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(LIMIT)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror or error}", GET_ONE, Exit.USAGE) from error
