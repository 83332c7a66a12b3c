"""What simulated agents report: flows between hosts of the fleet, and denials that no two batches share."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from random import Random

from segctl.model.inventory import Address
from segctl.proto.v1 import agent_pb2 as pb
from segctl.proto.v1 import hostpolicy_pb2 as hp

_PORTS = (443, 5432, 6379, 6514, 8080, 9100)
_PROCESSES = ("unit:nginx.service", "unit:shop-api.service", "unit:postgresql@15-main.service", "unit:cron.service")
_DENIED_PORT = 3389
_TCP = 6


@dataclass(frozen=True, slots=True)
class Load:
    """What every agent reports: `flows` and `denials` in a batch, a batch every `seconds`. Nothing, without seconds."""

    seconds: float = 0.0
    flows: int = 0
    denials: int = 0

    def __bool__(self) -> bool:
        return self.seconds > 0


class Batches:
    """The batches of one agent since it started: `epoch` and ascending sequences, as an agent numbers them. Most of a
    batch is always the same and serialized once: what differs is appended, and fields of one message add up."""

    def __init__(self, host: str, load: Load, others: tuple[Address, ...]) -> None:
        self.epoch, self.load = f"{host}-{secrets.token_hex(4)}", load
        random = Random(host)
        remotes = [random.choice(others) for _ in range(max(load.flows, load.denials))]
        self._remotes = remotes[: load.denials]
        self._flows = _flows(random, remotes[: load.flows]).SerializeToString() if load.flows else b""

    def batch(self, sequence: int) -> bytes:
        """A serialized ReportBatch. Its denials name it, so that the database shows whether it arrived."""
        now = time.time_ns() // 1000
        told = pb.ReportBatch(
            epoch=self.epoch,
            sequence=sequence,
            denials=[
                pb.Denial(
                    ingress=False,
                    verdict="denied",
                    workload="host",
                    remote=remote.packed,
                    service=hp.PortRange(protocol="tcp", low=_DENIED_PORT, high=_DENIED_PORT),
                    process=pb.ProcessInfo(pid=4711, exe=program(self.epoch, sequence), user="www-data"),
                    count=1,
                    first_seen_us=now,
                    last_seen_us=now,
                )
                for remote in self._remotes
            ],
        )
        if self._flows:
            window = round(self.load.seconds * 1e6)
            told.flows.from_us, told.flows.until_us = now - window, now
        return self._flows + told.SerializeToString()


def program(epoch: str, sequence: int) -> str:
    """The executable that the denials of a batch name."""
    return f"/opt/{epoch}/{sequence}"


def _flows(random: Random, remotes: list[Address]) -> pb.ReportBatch:
    count = len(remotes)
    return pb.ReportBatch(
        flows=pb.FlowBatch(
            workloads=["host"],
            rules=[""],
            workload=[0] * count,
            rule=[0] * count,
            direction=[random.randrange(2) for _ in remotes],
            remotes=b"".join(_sixteen(r) for r in remotes),
            protocol=[_TCP] * count,
            port=[random.choice(_PORTS) for _ in remotes],
            flows=[random.randrange(1, 50) for _ in remotes],
            bytes_sent=[random.randrange(1, 1 << 20) for _ in remotes],
            bytes_received=[random.randrange(1, 1 << 20) for _ in remotes],
            first_ms=[0] * count,
            last_ms=[0] * count,
            verdict=[2] * count,
            processes=_PROCESSES,
            process=[random.randrange(len(_PROCESSES)) for _ in remotes],
        )
    )


def _sixteen(address: Address) -> bytes:
    return b"\0" * 10 + b"\xff\xff" + address.packed if isinstance(address, IPv4Address) else address.packed
