"""The JSON of a view: its fields, in order; times as RFC 3339 in UTC; a finding flat, with its place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime

from segctl.model.findings import Finding

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def to_json(value: object) -> Json:
    """Raises TypeError for anything that is no view: an unknown value must not reach a script by its repr."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, Finding):
        return _finding(value)
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def document(value: object) -> str:
    """One document, indented for people."""
    return json.dumps(to_json(value), indent=2, ensure_ascii=True)


def record(kind: str, value: object) -> str:
    """One line of a stream: the view's fields after its `kind`."""
    fields = to_json(value)
    if not isinstance(fields, dict):
        raise TypeError("a record of a stream is an object")
    return json.dumps({"kind": kind, **fields}, ensure_ascii=True)


def _finding(finding: Finding) -> Json:
    return {
        "file": finding.position.file,
        "line": finding.position.line,
        "column": finding.position.column,
        "severity": finding.severity.value,
        "code": finding.code,
        "message": finding.message,
        "hint": finding.hint,
    }
