"""The policy files of a generation on disk: where they may go, and that they come back as the same policy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segctl.cli.exits import CliError, Exit
from segctl.cli.export import file_names, write_files
from segctl.cli.sources import load_sources
from segctl.cli.views import File

from tests.unit.segctl.cli.conftest import Cli


@pytest.mark.parametrize(
    ("given_names", "written"),
    [
        ([], ()),
        (["shop.yaml"], ("shop.yaml",)),
        (["/etc/segctl/policy/shop.yaml", "/etc/segctl/policy/db/pg.yml"], ("shop.yaml", "db/pg.yml")),
        (["a/x.yaml", "ab/x.yaml"], ("a/x.yaml", "ab/x.yaml")),
        (["../../up.yaml", "down.yaml"], ("up.yaml", "down.yaml")),
        (["<stdin>"], ("policy.yaml",)),
        (["x.yaml", "./x.yaml", "x.yaml"], ("x.yaml", "x-2.yaml", "x-3.yaml")),
        ([".hidden.yaml", "notes.txt"], ("hidden.yaml", "notes.txt.yaml")),
        (["..", ""], ("policy.yaml", "policy-2.yaml")),
    ],
)
def test_names(given_names: list[str], written: tuple[str, ...]) -> None:
    assert file_names(given_names) == written


@given(st.lists(st.text(alphabet="a./\\\x00\n~<", max_size=12), max_size=6))
def test_no_name_leads_out_of_the_directory_and_none_is_there_twice(names: list[str]) -> None:
    written = file_names(names)
    assert len(written) == len(names) == len(set(written))
    for name in written:
        assert name.isprintable()
        assert not name.startswith("/")
        assert not any(part.startswith(".") for part in name.split("/"))
        assert name.endswith((".yaml", ".yml"))


def test_what_is_written_is_read_again_byte_for_byte(tmp_path: Path) -> None:
    files = [File("p/a.yaml", "version: 1\r\n"), File("p/b/c.yml", "# ä\n")]
    write_files(files, tmp_path / "out")
    read = load_sources([str(tmp_path / "out")])
    assert [f.content.decode() for f in read] == [f.content for f in files]


def test_nothing_is_written_over_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("mine")
    with pytest.raises(CliError, match=r"b\.yaml: exists already; nothing was written") as caught:
        write_files([File("a.yaml", "new"), File("b.yaml", "new")], tmp_path)
    assert caught.value.exit_code is Exit.USAGE
    assert [p.name for p in tmp_path.iterdir()] == ["b.yaml"]
    assert (tmp_path / "b.yaml").read_text() == "mine"


def test_history_out(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "as-of-7"
    ran = cli("history", "7", "--out", str(out))
    assert ran.code == Exit.OK
    assert f"Wrote {out}/shop.yaml" in ran.out
    assert (out / "shop.yaml").read_text() == "version: 1\n"
    again = cli("history", "7", "--out", str(out))
    assert again.code == Exit.USAGE
    assert "exists already" in again.err
    assert cli("history", "--out", str(out)).code == Exit.USAGE
    other = tmp_path / "other"
    assert cli("history", "7", "--out", str(other), "--json").json == {
        "generation": 7,
        "files": [str(other / "shop.yaml")],
    }
