"""Sessions of browsers of MemoryStore."""

from __future__ import annotations

from dataclasses import replace

from segctl_controller.store.records import Limits, WebSessionRecord


class MemoryWebSessions:
    """A part of MemoryStore."""

    _limits: Limits

    def __init__(self) -> None:
        super().__init__()
        self._web_sessions: dict[bytes, WebSessionRecord] = {}

    def add_web_session(self, session: WebSessionRecord, used_us: int, began_us: int) -> None:
        for one in [*self._web_sessions.values()]:
            if one.used_us < used_us or one.began_us < began_us:
                del self._web_sessions[one.id]
        own = [s for s in self._web_sessions.values() if s.identity == session.identity]
        self._make_room(own, self._limits.web_sessions_of_one)
        self._make_room([*self._web_sessions.values()], self._limits.web_sessions)
        self._web_sessions[session.id] = session

    def _make_room(self, among: list[WebSessionRecord], most: int) -> None:
        among.sort(key=lambda s: (s.used_us, s.id))
        for one in among[: max(0, len(among) - most + 1)]:
            del self._web_sessions[one.id]

    def web_session(self, identifier: bytes) -> WebSessionRecord | None:
        return self._web_sessions.get(identifier)

    def use_web_session(self, identifier: bytes, at_us: int) -> None:
        found = self._web_sessions.get(identifier)
        if found is not None and found.used_us < at_us:
            self._web_sessions[identifier] = replace(found, used_us=at_us)

    def lease_web_session(self, identifier: bytes, version: int, now_us: int, until_us: int) -> bool:
        found = self._web_sessions.get(identifier)
        if found is None or found.version != version or found.leased_us > now_us:
            return False
        self._web_sessions[identifier] = replace(found, leased_us=until_us)
        return True

    def keep_web_session(self, identifier: bytes, version: int, sealed: bytes) -> bool:
        found = self._web_sessions.get(identifier)
        if found is None or found.version != version:
            return False
        self._web_sessions[identifier] = replace(found, sealed=sealed, version=version + 1, leased_us=0)
        return True

    def end_web_session(self, identifier: bytes) -> WebSessionRecord | None:
        return self._web_sessions.pop(identifier, None)

    def end_web_sessions_of(self, identity: str) -> None:
        self._web_sessions = {i: s for i, s in self._web_sessions.items() if s.identity != identity}
