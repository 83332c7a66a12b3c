"""What a browser sends to the web UI, without a browser: cookies, origin and mark, over real TLS."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from segctl.proto.v1 import admin_pb2

from tests.controller_harness import SECONDS, ControllerLab

SESSION = "__Host-segctl"
THREADS = ThreadPoolExecutor(16, "visitor")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    """Names in lower case; of several cookies the last."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Visitor:
    """`cookies` are kept as browsers keep them, and may be changed."""

    lab: ControllerLab
    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        web = self.lab.controller.config.web
        assert web is not None
        return web.port

    @property
    def origin(self) -> str:
        return f"https://localhost:{self.port}"

    async def get(self, path: str, **headers: str) -> Answer:
        return await self._elsewhere(self._ask, "GET", path, None, headers)

    async def post(self, path: str, body: object = None, **headers: str) -> Answer:
        """`body` as JSON, or bytes as they are; headers with _ for -, and None for those that are left out."""
        data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        return await self._elsewhere(self._ask, "POST", path, data, headers)

    async def call(self, method: str, **request: Any) -> Answer:
        return await self.post(f"/api/v1/{method}", request)

    async def sign_in(self, token: str) -> Answer:
        return await self.post("/auth/token", {"token": token})

    @staticmethod
    async def _elsewhere(work: Callable[..., Answer], *args: Any) -> Answer:
        """In threads that are not the controller's: it needs its own to answer."""
        return await asyncio.get_running_loop().run_in_executor(THREADS, work, *args)

    @contextmanager
    def connected(self) -> Iterator[http.client.HTTPSConnection]:
        context = ssl.create_default_context(cadata=(self.lab.state / "ca.pem").read_text())
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=SECONDS, context=context)
        try:
            yield connection
        finally:
            connection.close()

    def _ask(self, method: str, path: str, body: bytes | None, changes: dict[str, Any]) -> Answer:
        with self.connected() as connection:
            connection.request(method, path, body, self.headers(body is not None, changes))
            answer = connection.getresponse()
            content = answer.read()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        for name, value in answer.getheaders():
            if name.lower() == "set-cookie":
                self._keep(value)
        return Answer(answer.status, headers, content)

    def headers(self, posts: bool, changes: dict[str, Any]) -> dict[str, str]:
        usual: dict[str, str | None] = {"Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items()) or None}
        if posts:
            usual |= {"Content-Type": "application/json", "Origin": self.origin, "X-Segctl": "1"}
        for name, value in changes.items():
            usual[name.replace("_", "-").title()] = value
        return {name: value for name, value in usual.items() if value is not None}

    def _keep(self, header: str) -> None:
        name, _, value = header.partition(";")[0].partition("=")
        if "max-age=0" in header.lower():
            self.cookies.pop(name, None)
        else:
            self.cookies[name] = value


async def api_token(lab: ControllerLab, role: str = "viewer", name: str = "web", **fields: Any) -> str:
    request = admin_pb2.CreateApiTokenRequest(name=name, role=role, **fields)
    return (await lab.admin().CreateApiToken(request)).secret


async def signed_in(lab: ControllerLab, role: str = "viewer") -> Visitor:
    visitor = Visitor(lab)
    assert (await visitor.sign_in(await api_token(lab, role, f"web-{role}"))).status == 204
    return visitor


@asynccontextmanager
async def events(visitor: Visitor, **request: Any) -> AsyncIterator[http.client.HTTPResponse]:
    """The open stream of denials."""
    body = json.dumps({"follow": True, **request}).encode()
    with visitor.connected() as connection:
        await asyncio.to_thread(connection.request, "POST", "/api/v1/Denied", body, visitor.headers(True, {}))
        answer = await asyncio.to_thread(connection.getresponse)
        assert answer.status == 200
        yield answer


def next_event(answer: http.client.HTTPResponse) -> tuple[str, dict[str, Any]]:
    """Its name and data; comments are passed over. It blocks."""
    fields: dict[str, str] = {}
    name = ""
    while "data" not in fields or name:
        line = answer.readline()
        assert line, "the stream ended"
        name, _, value = line.decode().rstrip("\n").partition(": ")
        fields[name] = value
    return fields.get("event", "message"), json.loads(fields["data"])
