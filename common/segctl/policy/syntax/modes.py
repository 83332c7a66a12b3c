"""Changes the entries of `modes` in the text of a policy file and leaves everything else as it was written.

The text is changed at the places that PyYAML's nodes tell, never written anew: comments, quotes and blanks stay. Files
must have been read without an error before; who calls reads them again, and takes the change only if it says what it
should.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import yaml

from segctl.model.findings import Position
from segctl.model.policy import Mode, Selector

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SECTION = "modes"
_BOM = "\ufeff"
BLOCKS = ("|", ">")
"""Styles of words that stand on lines of their own."""


def set_mode(content: bytes, entry: Position, mode: Mode) -> bytes:
    """The file with `mode` in the entry of `modes` that begins at this place; as it is where none does, or
    its mode stands on lines of its own."""
    text, head = _text(content)
    for item in _items(_section(text)):
        if (item.start_mark.line + 1, item.start_mark.column + 1) == (entry.line, entry.column):
            value = _value(item, "mode")
            if isinstance(value, yaml.ScalarNode) and value.style not in BLOCKS:
                quote = value.style if value.style in ("'", '"') else ""
                word = f"{quote}{mode.value}{quote}"
                text = text[: value.start_mark.index] + word + text[value.end_mark.index :]
    return (head + text).encode()


def add_mode(content: bytes, selector: Selector, mode: Mode) -> bytes:
    """The file with one more entry, after the last one and in its style; with a section of its own if need be."""
    text, head = _text(content)
    root = yaml.compose(text, Loader=_LOADER)
    if not isinstance(root, yaml.MappingNode):
        return content
    section = _value(root, _SECTION)
    items = list(_items(section))
    json_like = root.value[0][0].style == '"'
    item = entry_text(selector, mode, json_like)
    if section is None and root.flow_style:
        at = root.value[-1][1].end_mark.index
        name = f'"{_SECTION}"' if json_like else _SECTION
        text = f"{text[:at]}, {name}: [{item}]{text[at:]}"
    elif section is None:
        margin = " " * root.start_mark.column
        text = _with_line(text, root.end_mark.index - 1, f"\n{margin}{_SECTION}:\n{margin}  - {item}")
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
    return _value(yaml.compose(text, Loader=_LOADER), _SECTION)


def _value(table: yaml.Node | None, key: str) -> yaml.Node | None:
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


def entry_text(selector: Selector, mode: Mode, json_like: bool = False) -> str:
    """An entry of `modes`, in the style of files that quote their keys or of the others."""
    named = dict(((("workload", selector.workload),) if selector.workload else ()) + selector.tags.pairs)
    if json_like:
        return json.dumps({"select": named, "mode": mode.value}, ensure_ascii=False)
    inside = ", ".join(f"{key}: {value}" for key, value in named.items())
    return f"{{select: {{{inside}}}, mode: {mode.value}}}"
