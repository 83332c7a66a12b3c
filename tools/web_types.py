"""Writes web/src/messages.ts: what protobuf's JSON of the methods that the web has looks like, from the protos.

Fields that are empty are left out of the JSON, so all are optional; 64-bit numbers are texts, bytes base64.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from segctl.proto.v1 import admin_pb2
from segctl_controller.web.transcode import METHODS

TARGET = Path(__file__).parents[1] / "web" / "src" / "messages.ts"
HEAD = "// Made by tools/web_types.py from the protos; do not edit.\n"
LONG = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)
SHORT = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_FLOAT,
        FieldDescriptor.CPPTYPE_DOUBLE,
    }
)


def _kind(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return field.message_type.name
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "boolean"
    if field.cpp_type in SHORT:
        return "number"
    return "Long" if field.cpp_type in LONG else "string"


def _field(field: FieldDescriptor) -> str:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return f"  {field.name}?: Record<string, {_kind(message.fields_by_name['value'])}>;"
    return f"  {field.name}?: {_kind(field)}{'[]' if field.label == FieldDescriptor.LABEL_REPEATED else ''};"


def _reachable(message: Descriptor, seen: dict[str, Descriptor]) -> None:
    if message.full_name in seen or message.GetOptions().map_entry:
        return
    seen[message.full_name] = message
    for field in message.fields:
        if field.message_type is not None:
            _reachable(field.message_type, seen)


def _lines() -> Iterator[str]:
    service = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
    methods = [method for method in service.methods if method.name in METHODS]
    seen: dict[str, Descriptor] = {}
    for method in methods:
        _reachable(method.input_type, seen)
        _reachable(method.output_type, seen)
    yield HEAD
    yield "/** A 64-bit number, which JSON has as a text. */\nexport type Long = string | number;\n"
    for _, message in sorted(seen.items()):
        yield f"export interface {message.name} {{"
        yield from map(_field, message.fields)
        yield "}\n"
    for name, streams in (("Methods", False), ("Streams", True)):
        yield f"export interface {name} {{"
        for method in methods:
            if method.server_streaming == streams:
                yield f"  {method.name}: {{ request: {method.input_type.name}; reply: {method.output_type.name} }};"
        yield "}\n"


def text() -> str:
    return "\n".join(_lines())


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
