"""The JSON Schema of a policy file, for editors. `python -m segctl.policy.schema` prints it.

It knows the form, not the meaning: that a name is declared, or a test holds, is for `segctl check`.
"""

from __future__ import annotations

import json
from typing import Any

from segctl.model.policy import Answer, Mode
from segctl.policy.syntax import grammar

_Schema = dict[str, Any]


def policy_schema() -> _Schema:
    """JSON Schema 2020-12 of one policy file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "segctl policy file",
        "type": "object",
        "additionalProperties": False,
        "required": ["version"],
        "properties": {
            "version": {"description": "The version of the language.", "enum": [1, "1"]},
            "tags": _by_name("The vocabulary: tag keys and their values.", _list(_ref("value"))),
            "services": _by_name("Names for protocols and ports.", _list(_ref("literal"))),
            "peers": _by_name("Names for unmanaged addresses and networks.", _list(_ref("network"))),
            "workloads": _by_name("Processes of the hosts that carry the tags `on`.", _ref("workload")),
            "modes": {"type": "array", "items": _ref("mode")},
            "boundaries": {"type": "array", "items": _ref("boundary")},
            "rules": {"type": "array", "items": _ref("rule")},
            "tests": {"type": "array", "items": _ref("test")},
            "essentials": _ref("essentials"),
        },
        "$defs": {**_words(), **_statements()},
    }


def _words() -> _Schema:
    return {
        "name": {"type": "string", "pattern": f"^{grammar.NAME_PATTERN}$", "maxLength": grammar.MAX_NAME},
        # Editors see `no` or `1` as a boolean or a number; the language reads them as they are written.
        "value": {
            "type": ["string", "integer", "number", "boolean"],
            "pattern": f"^{grammar.VALUE_PATTERN}$",
            "maxLength": grammar.MAX_VALUE,
        },
        "literal": {
            "description": "tcp/443, udp/8000-8100, icmp, icmp/echo-request, icmpv6/130",
            "type": "string",
            "pattern": f"^({grammar.SERVICE_PATTERN})$",
        },
        "service": {"anyOf": [_ref("literal"), _ref("name")]},
        "network": {
            "description": "An address or a CIDR.",
            "type": "string",
            "pattern": "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$",
        },
        "date": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
        "end": {
            "description": "2027-01-31, or 2027-01-31T18:00Z",
            "type": "string",
            "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?Z)?$",
        },
        "answer": {"enum": [a.value for a in Answer]},
        "tags": _by_name("Tags, every one of which must be carried.", _ref("value")),
        "selector": {
            "description": "Tags and a workload, or one peer. {} is everything.",
            **_by_name("", _ref("value")),
            "properties": {"workload": _ref("name"), "peer": _ref("name"), "process": False},
            "if": {"required": ["peer"]},
            "then": {"maxProperties": 1},
        },
    }


def _statements() -> _Schema:
    selector, services = _ref("selector"), _list(_ref("service"))
    pattern = {"type": ["string", "integer"], "minLength": 1, "maxLength": grammar.MAX_PATTERN}
    unit = {**pattern, "pattern": "(" + "|".join(s.replace(".", r"\.") for s in grammar.UNIT_SUFFIXES) + ")$"}
    cgroup, executable = {**pattern, "pattern": "^[^/]"}, {**pattern, "pattern": "^/[^*?[]*[^*?[/]$"}
    owners = {"user": pattern, "group": pattern}
    kinds = {"unit": unit, "cgroup": cgroup, "container": pattern, **owners, "executable": executable}
    process = _object(kinds, ())
    rescue = _object({"from": _list(_ref("network")), "allow": services}, ("from",))
    ends = {"from": selector, "to": selector}
    return {
        "workload": _object(
            {"on": _ref("tags"), "process": {**process, "minProperties": 1, "maxProperties": 1}, "tags": _ref("tags")},
            ("on", "process"),
        ),
        "mode": _object(
            {
                "select": {**selector, "not": {"required": ["peer"]}},
                "mode": {"enum": [m.value for m in Mode]},
                "outgoing": {"description": "What the sender of a denied packet sees.", **_ref("answer")},
                "incoming": {"description": "What the remote end of a denied packet sees.", **_ref("answer")},
            },
            ("select", "mode"),
        ),
        "boundary": _object({"name": _ref("name"), **ends}, ("name", "from", "to")),
        "rule": _object(
            {
                "name": _ref("name"),
                **ends,
                "within": _list(_ref("name")),
                "allow": services,
                "owner": {"type": "string", "minLength": 1, "maxLength": grammar.MAX_OWNER},
                "why": {"type": "string", "minLength": 1},
                "review": {"description": "When somebody looks at the rule again.", **_ref("date")},
                "expires": {
                    "description": "The last day on which the rule permits, or the moment when it ends. UTC.",
                    **_ref("end"),
                },
            },
            ("name", "from", "to", "allow", "owner", "why"),
        ),
        "test": {
            **_object({**ends, "allow": services, "deny": services}, ("from", "to")),
            "oneOf": [{"required": ["allow"]}, {"required": ["deny"]}],
        },
        "essentials": _object(
            {
                "dns": {"type": "array", "items": _ref("network")},
                "ntp": {"type": "array", "items": _ref("network")},
                "rescue": {"anyOf": [rescue, {"const": "none"}]},
            },
            (),
        ),
    }


def _ref(name: str) -> _Schema:
    return {"$ref": f"#/$defs/{name}"}


def _list(items: _Schema) -> _Schema:
    return {"type": "array", "minItems": 1, "uniqueItems": True, "items": items}


def _by_name(description: str, values: _Schema) -> _Schema:
    shape: _Schema = {"type": "object", "propertyNames": _ref("name"), "additionalProperties": values}
    return {"description": description, **shape} if description else shape


def _object(properties: _Schema, required: tuple[str, ...]) -> _Schema:
    shape: _Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**shape, "required": list(required)} if required else shape


def main() -> None:
    print(json.dumps(policy_schema(), indent=2))


if __name__ == "__main__":
    main()
