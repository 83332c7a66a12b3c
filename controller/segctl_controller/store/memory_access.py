"""API tokens and groups of MemoryStore."""

from __future__ import annotations

from dataclasses import replace

from segctl_controller.errors import AlreadyExistsError, NotFoundError
from segctl_controller.store.memory_websessions import MemoryWebSessions
from segctl_controller.store.records import ApiTokenRecord, Entry, GroupRecord
from segctl_controller.store.refusals import api_token_taken, group_taken, no_api_token, no_group


class MemoryAccess(MemoryWebSessions):
    """A part of MemoryStore."""

    def __init__(self) -> None:
        super().__init__()
        self._api_tokens: dict[str, ApiTokenRecord] = {}
        self._groups: set[GroupRecord] = set()

    def add_entry(self, entry: Entry) -> None:
        raise NotImplementedError

    def add_api_token(self, token: ApiTokenRecord, entry: Entry) -> None:
        if any(t.name == token.name for t in self._api_tokens.values()):
            raise AlreadyExistsError(api_token_taken(token.name))
        self._api_tokens[token.id] = token
        self.add_entry(entry)

    def api_tokens(self) -> tuple[ApiTokenRecord, ...]:
        return tuple(sorted(self._api_tokens.values(), key=lambda t: t.name))

    def api_token(self, sha256: bytes) -> ApiTokenRecord | None:
        return next((t for t in self._api_tokens.values() if t.sha256 == sha256), None)

    def use_api_token(self, token_id: str, at_us: int) -> None:
        if token_id in self._api_tokens:
            self._api_tokens[token_id] = replace(self._api_tokens[token_id], last_used_us=at_us)

    def remove_api_token(self, token_id: str, entry: Entry) -> None:
        if self._api_tokens.pop(token_id, None) is None:
            raise NotFoundError(no_api_token(token_id))
        self.end_web_sessions_of(f"api-token {token_id}")
        self.add_entry(entry)

    def groups(self) -> tuple[GroupRecord, ...]:
        return tuple(sorted(self._groups, key=lambda g: (g.name, g.role.value, str(g.scope))))

    def map_group(self, group: GroupRecord, entry: Entry) -> None:
        if group in self._groups:
            raise AlreadyExistsError(group_taken(group))
        self._groups.add(group)
        self.add_entry(entry)

    def unmap_group(self, name: str, entry: Entry) -> None:
        kept = {g for g in self._groups if g.name != name}
        if len(kept) == len(self._groups):
            raise NotFoundError(no_group(name))
        self._groups = kept
        self.add_entry(entry)
