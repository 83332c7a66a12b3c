"""Reads nodes of an expected shape, and writes down what is wrong with the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from segctl.policy.syntax.log import FindingLog
from segctl.policy.syntax.suggest import quoted
from segctl.policy.syntax.yamltree import Broken, Listing, Node, Scalar, Table


def read_table(node: Node, what: str, log: FindingLog, mend: str = "write {key: value}") -> Table | None:
    if isinstance(node, Table):
        return node
    _wrong_type(node, what, "a mapping", mend, log)
    return None


def read_items(node: Node, what: str, log: FindingLog, *, may_be_empty: bool = False) -> tuple[Node, ...] | None:
    if not isinstance(node, Listing):
        mend = f"write [{node.text}]" if isinstance(node, Scalar) and node.text.isprintable() else "write [a, b]"
        _wrong_type(node, what, "a list", mend[:80], log)
        return None
    if not node.items and not may_be_empty:
        log.error(node.where, "empty-list", f"{what} is empty", "give at least one entry, or remove the key")
        return None
    return node.items


def read_scalar(node: Node, what: str, log: FindingLog) -> Scalar | None:
    if isinstance(node, Scalar):
        return node
    _wrong_type(node, what, "a word", "write one value, without brackets", log)
    return None


def read_words(node: Node, what: str, log: FindingLog, *, may_be_empty: bool = False) -> tuple[Scalar, ...] | None:
    """The words of a list. A word twice is an error and comes once; an item that is no word is left out."""
    items = read_items(node, what, log, may_be_empty=may_be_empty)
    if items is None:
        return None
    words: dict[str, Scalar] = {}
    for item in items:
        word = read_scalar(item, f"an entry of {what}", log)
        if word is None:
            continue
        if word.text in words:
            message = f"{quoted(word.text)} is in {what} twice, first at {words[word.text].where}"
            log.error(word.where, "duplicate-value", message, "remove one")
            continue
        words[word.text] = word
    return tuple(words.values())


def read_fields(
    node: Node, what: str, known: Sequence[str], required: Collection[str], log: FindingLog
) -> dict[str, Node] | None:
    """The known entries of a mapping. Unknown and missing keys are written down and do not stop the reading."""
    table = read_table(node, what, log)
    if table is None:
        return None
    found: dict[str, Node] = {}
    for key, value in table.entries:
        if key.text in known:
            found[key.text] = value
        else:
            mend = log.mend(key.text, known, f"known are {', '.join(known)}")
            log.error(key.where, "unknown-key", f"{what} has no key {quoted(key.text)}", mend)
    for key_text in known:
        if key_text in required and key_text not in found:
            log.error(table.where, "missing-key", f"{what} lacks {key_text}", f"add {key_text}: ...")
    return found


def _wrong_type(node: Node, what: str, wanted: str, mend: str, log: FindingLog) -> None:
    match node:
        case Broken():
            return
        case Scalar(text=""):
            given = "empty"
        case Scalar():
            given = f"the word {quoted(node.text)}"
        case Listing():
            given = "a list"
        case Table():
            given = "a mapping"
    log.error(node.where, "wrong-type", f"{what} must be {wanted}, but is {given}", mend)
