"""Rows to records and back. Lists and tags are JSON, files are compressed JSON."""

from __future__ import annotations

import base64
import ipaddress
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from segctl.model.inventory import Address
from segctl.model.policy import Network, Tags
from segctl.policy.source import SourceFile

from segctl_controller.store.records import (
    ApiTokenRecord,
    DenialRecord,
    GenerationRecord,
    GenerationState,
    GroupRecord,
    HostRecord,
    OperatorRecord,
    Role,
    TokenRecord,
)

Row = Mapping[str, Any]


def texts(values: Sequence[Network] | Sequence[Address]) -> str:
    return json.dumps([str(v) for v in values])


def networks_of(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(t) for t in json.loads(text))


def addresses_of(text: str) -> tuple[Address, ...]:
    return tuple(ipaddress.ip_address(t) for t in json.loads(text))


def tags_text(tags: Tags) -> str:
    return json.dumps(dict(tags.pairs))


def tags_of(text: str) -> Tags:
    return Tags.of(json.loads(text))


def files_blob(files: Sequence[SourceFile]) -> bytes:
    pairs = [[f.name, base64.b64encode(f.content).decode("ascii")] for f in files]
    return zlib.compress(json.dumps(pairs).encode())


def files_of(blob: bytes) -> tuple[SourceFile, ...]:
    return tuple(SourceFile(name, base64.b64decode(text)) for name, text in json.loads(zlib.decompress(blob)))


def generation_values(record: GenerationRecord) -> dict[str, Any]:
    return {
        "digest": record.digest,
        "author": record.author,
        "message": record.message,
        "created_us": record.created_us,
        "files": files_blob(record.files),
        "rollback_of": record.rollback_of,
        "state": record.state.value,
        "why": record.why,
    }


def generation_of(row: Row, *, with_files: bool) -> GenerationRecord:
    return GenerationRecord(
        digest=row["digest"],
        author=row["author"],
        message=row["message"],
        created_us=row["created_us"],
        files=files_of(row["files"]) if with_files else (),
        rollback_of=row["rollback_of"],
        number=row["number"],
        state=GenerationState(row["state"]),
        why=row["why"],
    )


def host_values(record: HostRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "tags": tags_text(record.tags),
        "networks": texts(record.networks),
        "addresses": texts(record.addresses),
        "serial": record.serial,
        "enrolled_us": record.enrolled_us,
        "last_seen_us": record.last_seen_us,
        "agent_version": record.agent_version,
        "facts": record.facts,
        "renewal": record.renewal,
        "restored_us": record.restored_us,
    }


def host_of(row: Row) -> HostRecord:
    return HostRecord(
        name=row["name"],
        tags=tags_of(row["tags"]),
        serial=row["serial"],
        enrolled_us=row["enrolled_us"],
        networks=networks_of(row["networks"]),
        addresses=addresses_of(row["addresses"]),
        last_seen_us=row["last_seen_us"],
        agent_version=row["agent_version"],
        facts=row["facts"],
        renewal=row["renewal"],
        restored_us=row["restored_us"],
    )


def token_values(record: TokenRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "sha256": record.sha256,
        "tags": tags_text(record.tags),
        "networks": texts(record.networks),
        "host": record.host,
        "uses": record.uses,
        "expires_us": record.expires_us,
        "replace": record.replace,
        "created_by": record.created_by,
    }


def token_of(row: Row) -> TokenRecord:
    return TokenRecord(
        id=row["id"],
        sha256=row["sha256"],
        tags=tags_of(row["tags"]),
        host=row["host"],
        uses=row["uses"],
        expires_us=row["expires_us"],
        replace=bool(row["replace"]),
        created_by=row["created_by"],
        networks=networks_of(row["networks"]),
    )


def operator_values(record: OperatorRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "role": record.role.value,
        "serial": record.serial,
        "created_us": record.created_us,
        "scope": tags_text(record.scope),
    }


def operator_of(row: Row) -> OperatorRecord:
    return OperatorRecord(row["name"], Role(row["role"]), row["serial"], row["created_us"], tags_of(row["scope"]))


def group_values(record: GroupRecord) -> dict[str, Any]:
    return {"name": record.name, "role": record.role.value, "scope": tags_text(record.scope)}


def api_token_values(record: ApiTokenRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "sha256": record.sha256,
        "name": record.name,
        "role": record.role.value,
        "scope": tags_text(record.scope),
        "created_by": record.created_by,
        "created_us": record.created_us,
        "expires_us": record.expires_us,
        "last_used_us": record.last_used_us,
    }


def api_token_of(row: Row) -> ApiTokenRecord:
    return ApiTokenRecord(**{**row, "role": Role(row["role"]), "scope": tags_of(row["scope"])})


def group_of(row: Row) -> GroupRecord:
    return GroupRecord(row["name"], Role(row["role"]), tags_of(row["scope"]))


def denial_values(denial: DenialRecord, number: int) -> Row:
    """With that id."""
    return {
        "id": number,
        "host": denial.host,
        "workload": denial.workload,
        "key": denial.key,
        "count": denial.count,
        "first_us": denial.first_us,
        "last_us": denial.last_us,
        "body": denial.body,
    }


def denial_of(row: Row) -> DenialRecord:
    return DenialRecord(
        host=row["host"],
        workload=row["workload"],
        key=row["key"],
        count=row["count"],
        first_us=row["first_us"],
        last_us=row["last_us"],
        body=row["body"],
        id=row["id"],
    )
