"""The operator of a measurement: pushes and tags over the admin API, without the plan that the command line makes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from segctl.cli.config import load_config
from segctl.policy.source import SourceFile
from segctl.proto.v1 import admin_pb2 as pb
from segctl.proto.v1 import admin_pb2_grpc
from segctl.wire import source_to_wire

SECONDS = 600.0
LARGEST = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pushed:
    """One push as its operator saw it. Times are monotonic; `began` has the phases in their order."""

    requested: float
    stored: float
    done: float
    proven: int
    began: Mapping[str, float] = field(default_factory=dict)


class Operator:
    """Synchronous. Raises grpc.RpcError."""

    def __init__(self, stub: admin_pb2_grpc.AdminStub) -> None:
        self._admin = stub

    def push(self, files: Sequence[SourceFile], wait: int = 120) -> Pushed:
        """Until it is confirmed. Raises RuntimeError when it was undone, with why."""
        request = pb.PushRequest(
            source=source_to_wire(files), message="bench", wait_seconds=wait, rollout=pb.Rollout(watch_seconds=0)
        )
        requested = stored = done = time.monotonic()
        began: dict[str, float] = {}
        last = pb.PushDone()
        for progress in self._admin.Push(request, timeout=SECONDS):
            done = time.monotonic()
            match progress.WhichOneof("kind"):
                case "stored":
                    stored = done
                case "phase":
                    began.setdefault(progress.phase.name, done)
                case "done":
                    last = progress.done
        if last.undone:
            raise RuntimeError(f"a push was undone: {last.why}")
        return Pushed(requested, stored, done, last.proven, began)

    def tag(self, host: str, tags: Mapping[str, str]) -> None:
        self._admin.SetTags(pb.SetTagsRequest(host=host, set=tags), timeout=SECONDS)

    def token(self, tags: Mapping[str, str], uses: int) -> str:
        """A join token for `uses` hosts."""
        request = pb.CreateTokenRequest(tags=tags, uses=uses, valid_seconds=3600)
        return str(self._admin.CreateToken(request, timeout=SECONDS).join)

    def states(self) -> dict[str, str]:
        """The state of every host, by name."""
        reply = self._admin.ListHosts(pb.ListHostsRequest(), timeout=SECONDS)
        return {host.name: host.state for host in reply.hosts}


@contextmanager
def operator_of(directory: Path) -> Iterator[Operator]:
    """With the credentials in `directory`, as SEGCTL_CONFIG names it."""
    config = load_config(directory)
    credentials = grpc.ssl_channel_credentials(config.ca, config.key, config.certificate)
    options = [("grpc.max_receive_message_length", LARGEST), ("grpc.max_send_message_length", LARGEST)]
    with grpc.secure_channel(config.controller, credentials, options=options) as channel:
        yield Operator(admin_pb2_grpc.AdminStub(channel))
