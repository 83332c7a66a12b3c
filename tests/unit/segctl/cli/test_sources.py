"""Where policy files come from, and the limits on them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from segctl.cli import sources
from segctl.cli.exits import CliError, Exit
from segctl.cli.sources import load_sources


def test_a_directory_gives_its_yaml_sorted_recursive_without_the_hidden(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "sub/c.yaml", ".hidden.yaml", ".git/d.yaml", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    names = [f.name for f in load_sources([str(tmp_path)])]
    assert names == [str(tmp_path / n) for n in ("a.yml", "b.yaml", "sub/c.yaml")]


def test_a_file_is_read_whatever_its_name_and_only_once(tmp_path: Path) -> None:
    path = tmp_path / "policy.txt"
    path.write_bytes(b"\xff")
    assert [f.content for f in load_sources([str(path), str(path), f"{tmp_path}/./policy.txt"])] == [b"\xff"]


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"version: 1")))
    assert [(f.name, f.content) for f in load_sources(["-"])] == [("<stdin>", b"version: 1")]


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda d: d / "absent.yaml", "No such file"),
        (lambda d: d, "no *.yaml or *.yml"),
        (lambda d: _write(d / "big.yaml", sources.MAX_FILE + 1), "larger than"),
        (lambda d: _many(d, sources.MAX_FILES + 1), "more than 1,000"),
        (lambda d: _fill(d, 5), "together"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_name(tmp_path: Path, prepare, words: str) -> None:
    with pytest.raises(CliError, match=words.replace("*", r"\*")) as caught:
        load_sources([str(prepare(tmp_path))])
    assert caught.value.exit_code is Exit.USAGE
    assert caught.value.mend


def _write(path: Path, size: int) -> Path:
    path.write_bytes(b"#" * size)
    return path


def _many(directory: Path, count: int) -> Path:
    for number in range(count):
        (directory / f"{number}.yaml").touch()
    return directory


def _fill(directory: Path, count: int) -> Path:
    for number in range(count):
        _write(directory / f"{number}.yaml", sources.MAX_FILE)
    return directory
