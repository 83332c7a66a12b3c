"""Changes the entries of `modes` in the text of a policy file and leaves everything else as it was written.

The text is changed at the places that PyYAML's nodes tell, never written anew: comments, quotes and blanks stay. Files
must have been read without an error before; who calls reads them again, and takes the change only if it says what it
should.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from segctl.model.findings import Position
from segctl.model.policy import Mode, Selector

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SECTION = "modes"
_BOM = "\ufeff"


def set_mode(content: bytes, entry: Position, mode: Mode) -> bytes:
    """The file with `mode` in the entry of `modes` that begins at this place; as it is where none does."""
    text, head = _text(content)
    for item in _items(_section(text)):
        if (item.start_mark.line + 1, item.start_mark.column + 1) == (entry.line, entry.column):
            value = _value(item, "mode")
            if value is not None:
                text = text[: value.start_mark.index] + mode.value + text[value.end_mark.index :]
    return (head + text).encode()


def add_mode(content: bytes, selector: Selector, mode: Mode) -> bytes:
    """The file with one more entry, after the last one and in its style; with a section of its own if need be."""
    text, head = _text(content)
    item = f"{{select: {_braces(selector)}, mode: {mode.value}}}"
    section = _section(text)
    items = list(_items(section))
    if section is None:
        text = _with_line(text, len(text), f"\n{_SECTION}:\n  - {item}")
    elif isinstance(section, yaml.CollectionNode) and section.flow_style:
        at = items[-1].end_mark.index if items else section.end_mark.index - 1
        text = text[:at] + (f", {item}" if items else item) + text[at:]
    elif items:
        start = items[0].start_mark.index
        line = text.rfind("\n", 0, start) + 1
        indent = text.rfind("-", line, start) - line
        text = _with_line(text, max(map(_end, items)), f"{' ' * indent}- {item}")
    return (head + text).encode()


def _text(content: bytes) -> tuple[str, str]:
    """The text as the policy's parser counts its places, and what stands before it."""
    text = content.decode()
    return text.removeprefix(_BOM), _BOM if text.startswith(_BOM) else ""


def _section(text: str) -> yaml.Node | None:
    root = yaml.compose(text, Loader=_LOADER)
    return _value(root, _SECTION) if root is not None else None


def _value(table: yaml.Node, key: str) -> yaml.Node | None:
    pairs = table.value if isinstance(table, yaml.MappingNode) else ()
    return next((value for name, value in pairs if name.value == key), None)


def _items(section: yaml.Node | None) -> Iterator[yaml.Node]:
    if isinstance(section, yaml.SequenceNode):
        yield from section.value


def _end(node: yaml.Node) -> int:
    """Where the last word of a node ends: a block itself ends only where the next one begins."""
    if not isinstance(node, yaml.CollectionNode) or node.flow_style:
        return int(node.end_mark.index)
    parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
    return max(map(_end, parts))


def _with_line(text: str, after: int, line: str) -> str:
    """The text with a line behind that of the character `after`."""
    end = text.find("\n", after)
    if end < 0:
        break_ = "\r\n" if "\r\n" in text else "\n"
        gap = "" if not text or text.endswith("\n") else break_
        return text + gap + line.replace("\n", break_) + break_
    break_ = "\r\n" if text[:end].endswith("\r") else "\n"
    return text[: end + 1] + line.replace("\n", break_) + break_ + text[end + 1 :]


def _braces(selector: Selector) -> str:
    named = ((("workload", selector.workload),) if selector.workload else ()) + selector.tags.pairs
    return "{" + ", ".join(f"{key}: {value}" for key, value in named) + "}"
