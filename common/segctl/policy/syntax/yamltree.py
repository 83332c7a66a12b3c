"""YAML as a tree of texts with positions: no types, no anchors, no tags, no recursion.

A policy is read as it is written: `on` is a key and `no` a value, whatever YAML 1.1 makes of them. Aliases and tags
are refused, so that a reviewer sees in one place what a file says and a small file never grows into a large tree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import yaml

from segctl.model.findings import Position
from segctl.policy.source import SourceFile
from segctl.policy.syntax.log import FindingLog
from segctl.policy.syntax.suggest import quoted

MAX_FILE_BYTES = 1 << 20
MAX_DEPTH = 16

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What is not c-printable in YAML 1.2.2, 5.1; the marks that reorder or hide text (Unicode UAX 9, CVE-2021-42574); and
# the line breaks that YAML knows and editors do not, which would shift every position.
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)


@dataclass(frozen=True, slots=True)
class Scalar:
    text: str
    where: Position


@dataclass(frozen=True, slots=True)
class Listing:
    items: tuple[Node, ...]
    where: Position


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping with its keys in the order of the file, each once."""

    entries: tuple[tuple[Scalar, Node], ...]
    where: Position


@dataclass(frozen=True, slots=True)
class Broken:
    """Stands where a node was refused. Its finding is written; whoever meets it says nothing more."""

    where: Position


Node = Scalar | Listing | Table | Broken


_TOO_DEEP = (f"nested deeper than {MAX_DEPTH} levels", "no part of a policy nests so deeply: check brackets")


def read_tree(file: SourceFile, log: FindingLog) -> Node | None:
    """The tree of one file, or None when it cannot be read at all (its findings are in `log`)."""
    text = _decode(file, log)
    if text is None:
        return None
    builder = _Builder(file.name, log)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if not builder.take(event):
                return None
    except yaml.MarkedYAMLError as error:
        if "nest" in str(error.problem).lower() or "depth" in str(error.problem).lower():  # newer libyaml looks ahead
            log.error(_syntax_place(file.name, error), "yaml-depth", *_TOO_DEEP)
            return None
        log.error(_syntax_place(file.name, error), "yaml-syntax", f"not valid YAML: {_what(error)}", _mend(error))
        return None
    except yaml.YAMLError as error:
        log.error(Position(file.name), "yaml-syntax", f"not valid YAML: {quoted(str(error))}", "check the file's text")
        return None
    return builder.result()


def _decode(file: SourceFile, log: FindingLog) -> str | None:
    place = Position(file.name)
    if len(file.content) > MAX_FILE_BYTES:
        message = f"the file has {len(file.content)} bytes; the limit is {MAX_FILE_BYTES}"
        log.error(place, "file-too-large", message, "split it: several files make one policy")
        return None
    try:
        text = file.content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = file.content.count(b"\n", 0, error.start) + 1
        column = len(file.content[: error.start].rpartition(b"\n")[2].decode("utf-8")) + 1
        message = f"byte {file.content[error.start]:#04x} at offset {error.start} is not UTF-8"
        log.error(Position(file.name, line, column), "not-utf8", message, "save the file as UTF-8")
        return None
    found = _UNPRINTABLE.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - (text.rfind("\n", 0, found.start()) + 1) + 1
        message = f"character U+{ord(found.group()):04X} does not belong into a policy file"
        log.error(Position(file.name, line, column), "control-character", message, "remove it")
        return None
    return text


def _syntax_place(name: str, error: yaml.MarkedYAMLError) -> Position:
    mark = error.problem_mark or error.context_mark
    return Position(name, mark.line + 1, mark.column + 1) if mark else Position(name)


def _what(error: yaml.MarkedYAMLError) -> str:
    return ", ".join(str(part) for part in (error.context, error.problem) if part) or "it breaks off"


def _mend(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem)
    if "alias" in str(error.context):
        return "quote a text that begins with *"
    if "':'" in problem or "node content" in problem:
        return "quote an IPv6 address that begins or ends with a colon, and check the brackets"
    if "\\t" in problem or "tab" in problem or "cannot start any token" in problem:
        return "indent with spaces, and quote a text that begins with a special character"
    return "check the indentation, and quote texts with `: ` or `#` in them"


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    where: Position
    is_table: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)
    key: Node | None = None

    def closed(self) -> Node:
        if self.is_table:
            return Table(tuple(self.entries.values()), self.where)
        return Listing(tuple(self.items), self.where)


class _Builder:
    """Takes parse events, one after the other, and keeps the open collections on a stack of its own."""

    def __init__(self, name: str, log: FindingLog) -> None:
        self._name = name
        self._log = log
        self._stack: list[_Open] = []
        self._root: Node | None = None
        self._documents = 0

    def take(self, event: yaml.Event) -> bool:
        """False when the rest of the file is not worth reading."""
        mark = event.start_mark
        where = Position(self._name, mark.line + 1, mark.column + 1) if mark else Position(self._name)
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    mend = "remove the --- line, or make it a file of its own"
                    self._log.error(where, "yaml-documents", "a second document begins in this file", mend)
                    return False
            case yaml.AliasEvent():
                self._refuse(where, f"alias *{event.anchor}")
                self._add(Broken(where))
            case yaml.ScalarEvent():
                self._check_properties(event, where)
                self._add(Scalar(event.value, where))
            case yaml.CollectionStartEvent():
                self._check_properties(event, where)
                self._stack.append(_Open(where, isinstance(event, yaml.MappingStartEvent)))
                if len(self._stack) > MAX_DEPTH:
                    self._log.error(where, "yaml-depth", *_TOO_DEEP)
                    return False
            case yaml.CollectionEndEvent():
                self._add(self._stack.pop().closed())
        return True

    def result(self) -> Node | None:
        empty = self._root is None or (isinstance(self._root, Scalar) and not self._root.text)
        if empty:
            mend = "write `version: 1` and what you want to say, or remove the file"
            self._log.error(Position(self._name), "file-empty", "the file says nothing", mend)
            return None
        return self._root

    def _check_properties(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, where: Position) -> None:
        if event.anchor is not None:
            self._refuse(where, f"anchor &{event.anchor}")
        if event.tag is not None:
            self._refuse(where, f"tag {event.tag}")

    def _refuse(self, where: Position, what: str) -> None:
        message = f"{quoted(what)}: anchors, aliases, tags and merge keys are not part of the language"
        self._log.error(where, "yaml-feature", message, "write the value out")

    def _add(self, node: Node) -> None:
        if not self._stack:
            self._root = node
            return
        top = self._stack[-1]
        if not top.is_table:
            top.items.append(node)
        elif top.key is None:
            top.key = node
        else:
            key, top.key = top.key, None
            self._add_entry(top, key, node)

    def _add_entry(self, table: _Open, key: Node, value: Node) -> None:
        match key:
            case Scalar(text="<<"):
                self._refuse(key.where, "merge key <<")
            case Scalar() if key.text in table.entries:
                first = table.entries[key.text][0].where
                message = f"key {quoted(key.text)} is given twice, first at {first}"
                self._log.error(key.where, "duplicate-key", message, "remove one, or put both together")
            case Scalar():
                table.entries[key.text] = (key, value)
            case Listing() | Table():
                self._log.error(key.where, "wrong-type", "a list or mapping cannot be a key", "write a word")
            case Broken():
                pass
