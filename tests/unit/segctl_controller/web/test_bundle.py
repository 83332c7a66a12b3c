"""The bundle that is shipped is the one that its sources make, without npm to try it."""

from __future__ import annotations

from pathlib import Path

from tools import web_sources, web_types

ROOT = Path(__file__).parents[4]
BUILD = "run tools/web.sh and commit what it changes"


def test_the_bundle_is_built_from_these_sources() -> None:
    noted = (ROOT / "web" / "built.sha256").read_text()
    assert noted.splitlines() == web_sources.text().splitlines(), BUILD


def test_the_messages_are_those_of_the_protos() -> None:
    assert (ROOT / "web" / "src" / "messages.ts").read_text() == web_types.text(), BUILD


def test_the_bundle_asks_nobody_else_and_runs_no_text() -> None:
    static = ROOT / "controller" / "segctl_controller" / "web" / "static"
    shell = (static / "index.html").read_text()
    assert "http" not in shell
    assert "<style" not in shell
    assert {path.name for path in static.iterdir()} == {"app.js", "icon.svg", "index.html", "style.css"}
    script = (static / "app.js").read_text()
    assert "new Function(" not in script
    assert "eval(" not in script
    assert "url(" not in (static / "style.css").read_text()
