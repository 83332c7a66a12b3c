from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from segctl.cli.app import App
from segctl.cli.main import run
from segctl.cli.terminal import Terminal

from tests.unit.segctl.cli.admin_server import ScriptedAdmin, serve
from tests.unit.segctl.cli.pki import Authority, write_config
from tests.unit.segctl.cli.samples import NOW

# A shell ignores SIGINT for what it starts with `&`, and processes inherit that: ours are sent it as a terminal would.
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def lines(self):
        return [json.loads(text) for text in self.out.splitlines()]


@dataclass
class Cli:
    """Runs one command line in this process; `app` is what it runs in."""

    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    app: App = field(default_factory=lambda: App(clock=lambda: NOW))

    def __call__(self, *arguments: str, stdin: bytes | None = None) -> Ran:
        if stdin is not None:
            self.monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self.capsys.readouterr()
        code = run(list(arguments), self.app)
        out, err = self.capsys.readouterr()
        return Ran(code, out, err)

    def on_terminal(self, width: int = 80) -> Cli:
        terminal = Terminal(interactive=True, watched=True, width=width)
        return replace(self, app=replace(self.app, terminal=terminal))

    def with_config(self, directory: Path) -> Cli:
        return replace(self, app=replace(self.app, directory=directory))


@pytest.fixture
def offline(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    cli = Cli(capsys, monkeypatch)
    cli.app = replace(cli.app, environment={"HOME": str(tmp_path)})
    return cli


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def admin(authority: Authority) -> Iterator[tuple[ScriptedAdmin, int]]:
    servicer = ScriptedAdmin()
    port, stop = serve(servicer, authority)
    yield servicer, port
    servicer.hold_push.set()
    stop()


@pytest.fixture
def controller(admin: tuple[ScriptedAdmin, int]) -> ScriptedAdmin:
    return admin[0]


@pytest.fixture
def cli(offline: Cli, admin: tuple[ScriptedAdmin, int], authority: Authority, tmp_path: Path) -> Cli:
    """A client whose controller is `controller`."""
    return offline.with_config(write_config(tmp_path / "config", admin[1], authority))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text("version: 1\n")
    return path
