from __future__ import annotations

import pytest
from segctl.policy.source import SourceFile
from segctl.policy.syntax.log import FindingLog
from segctl.policy.syntax.yamltree import MAX_DEPTH, MAX_FILE_BYTES, Listing, Scalar, Table, read_tree


def read(content: bytes) -> tuple[object, list[str]]:
    log = FindingLog()
    tree = read_tree(SourceFile("f", content), log)
    return tree, [f"{f.position.line}:{f.position.column} {f.code}" for f in log.results()]


def test_scalars_stay_as_written() -> None:
    """`on`, `no`, octals, sexagesimals and dates are texts."""
    tree, found = read(b"on: [no, 010, 22:22, 2027-05-01, ~, 'x y', \"\\x41\"]\n")
    assert found == []
    assert isinstance(tree, Table)
    ((key, value),) = tree.entries
    assert key.text == "on"
    assert isinstance(value, Listing)
    texts = [item.text for item in value.items if isinstance(item, Scalar)]
    assert texts == ["no", "010", "22:22", "2027-05-01", "~", "x y", "A"]


def test_positions_count_characters_from_one() -> None:
    tree, _ = read("ä: 1\n  # c\nb:\n  - ü: [é, x]\n".encode())
    assert isinstance(tree, Table)
    inner = tree.entries[1][1]
    assert isinstance(inner, Listing)
    row = inner.items[0]
    assert isinstance(row, Table)
    cell = row.entries[0][1]
    assert isinstance(cell, Listing)
    assert [(i.where.line, i.where.column) for i in cell.items] == [(4, 9), (4, 12)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "0:0 file-empty"),
        (b"# only a comment\n", "0:0 file-empty"),
        (b"---\n...\n", "0:0 file-empty"),
        (b"a: 1\nb: \xff\n", "2:4 not-utf8"),
        ("a: 1\n".encode("utf-16"), "1:1 not-utf8"),
        (b"a: 1\nb: x\x00y\n", "2:5 control-character"),
        (b"a: \x1b[31m\n", "1:4 control-character"),
        ("a: x\u202ey\n".encode(), "1:5 control-character"),
        (b"a: 1\n---\nb: 2\n", "2:1 yaml-documents"),
        (b"a: &x 1\n", "1:4 yaml-feature"),
        (b"a: *x\n", "1:4 yaml-feature"),
        (b"a: !!python/object:os.system x\n", "1:4 yaml-feature"),
        (b"a: !!str x\n", "1:4 yaml-feature"),
        (b"a: !mine {b: 1}\n", "1:4 yaml-feature"),
        (b"<<: {a: 1}\n", "1:1 yaml-feature"),
        (b"a: 1\nb: 2\na: 3\n", "3:1 duplicate-key"),
        (b"? [a]\n: 1\n", "1:3 wrong-type"),
        (b"a: [1, 2\nb: 3\n", "2:2 yaml-syntax"),
        (b"a: b: c\n", "1:5 yaml-syntax"),
        (b"a:\n\t- b\n", "2:1 yaml-syntax"),
        (b'a: "b\n', "2:1 yaml-syntax"),
    ],
)
def test_each_refusal_has_its_place(content: bytes, expected: str) -> None:
    assert read(content)[1] == [expected]


def test_byte_order_mark_is_no_character() -> None:
    tree, found = read(b"\xef\xbb\xbfa: 1\n")
    assert found == []
    assert isinstance(tree, Table)
    assert tree.entries[0][0].text == "a"


def test_nesting_ends_at_the_limit() -> None:
    assert read(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)[1] == []
    assert read(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))[1] == [f"1:{MAX_DEPTH + 1} yaml-depth"]


def test_a_megabyte_of_brackets_is_refused_without_recursion() -> None:
    # Newer versions of libyaml have a limit of their own, which they reach first since they read ahead.
    for content in (b"[" * MAX_FILE_BYTES, b"{a: " * 200_000):
        (found,) = read(content)[1]
        assert found.startswith("1:") and found.endswith(" yaml-depth")


def test_size_ends_at_the_limit() -> None:
    padding = b"#" * (MAX_FILE_BYTES - 5)
    assert read(b"a: 1\n" + padding)[1] == []
    assert read(b"a: 1\n#" + padding)[1] == ["0:0 file-too-large"]


def test_a_duplicate_key_names_both_places_and_keeps_the_first() -> None:
    log = FindingLog()
    tree = read_tree(SourceFile("f", b"a: 1\na: 2\n"), log)
    assert "first at f:1:1" in log.results()[0].message
    assert isinstance(tree, Table)
    assert [str(v.text) for _, v in tree.entries if isinstance(v, Scalar)] == ["1"]


def test_an_anchor_does_not_hide_the_rest_of_the_file() -> None:
    assert read(b"a: &x 1\nb: *x\nb: 2\n")[1] == ["1:4 yaml-feature", "2:4 yaml-feature", "3:1 duplicate-key"]
