"""The client configuration: every way it can be wrong names the file and the mend."""

from __future__ import annotations

from pathlib import Path

import pytest
from segctl.cli.app import App
from segctl.cli.config import load_config
from segctl.cli.exits import CliError, Exit

from tests.unit.segctl.cli.pki import Authority, write_config


def test_a_good_configuration_is_read(tmp_path: Path, authority: Authority) -> None:
    config = load_config(write_config(tmp_path, 7443, authority))
    assert (config.controller, config.fleet, config.name) == ("127.0.0.1:7443", "shop", "alice")
    assert config.address == ("127.0.0.1", 7443)
    assert b"PRIVATE" in config.key
    assert "PRIVATE" not in repr(config)


def _break(directory: Path, how: str) -> None:
    client = directory / "client.json"
    match how:
        case "key":
            (directory / "key.pem").chmod(0o640)
        case "json":
            client.write_text("{")
        case "list":
            client.write_text("[]")
        case "port":
            client.write_text('{"controller": "host:99999", "fleet": "f", "name": "n"}')
        case missing:
            (directory / missing).unlink()


@pytest.mark.parametrize(
    ("how", "message", "mend"),
    [
        ("key", r"key\.pem: others may read this key \(mode 0640\)", "chmod 600"),
        ("json", r"client\.json: not JSON", "admin add"),
        ("list", r"client\.json: must be an object", "admin add"),
        ("port", r"'host:99999' is not HOST:PORT", "7443"),
        ("ca.pem", r"ca\.pem: No such file", "admin add"),
        ("cert.pem", r"cert\.pem: No such file", "admin add"),
        ("key.pem", r"key\.pem: No such file", "admin add"),
        ("client.json", r"client\.json: No such file", "admin add"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, authority: Authority, how: str, message: str, mend: str) -> None:
    directory = write_config(tmp_path, 7443, authority)
    _break(directory, how)
    with pytest.raises(CliError, match=message) as caught:
        load_config(directory)
    assert mend in caught.value.mend
    assert caught.value.exit_code is Exit.USAGE


def test_the_directory_comes_from_option_then_environment_then_home(tmp_path: Path) -> None:
    home = {"HOME": "/home/a"}
    assert App(environment=home).configuration == Path("/home/a/.config/segctl")
    assert App(environment={**home, "SEGCTL_CONFIG": "/env"}).configuration == Path("/env")
    assert App(environment={**home, "SEGCTL_CONFIG": "/env"}, directory=tmp_path).configuration == tmp_path
