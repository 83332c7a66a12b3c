"""A fleet as only the flow store sees it: 10,000 hosts of 200 applications in 5 environments, and what they told."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

import numpy as np
from numpy.typing import NDArray
from segctl.model.policy import Policy, Tags
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile
from segctl.proto.v1 import agent_pb2
from segctl_controller.flowstore.records import DAY_US, MAPPED, MINUTE_US

APPS, ENVS, ROLES = 200, ("dev", "test", "stage", "prod", "dr"), ("web", "api", "db", "worker", "cache")
HOSTS = 10_000
RULES = 5_000
PORTS = {"web": 443, "api": 8080, "db": 5432, "worker": 9000, "cache": 6379}
NOW = 1_790_000_000_000_000 - 1_790_000_000_000_000 % DAY_US
CALLS = (("web", "api"), ("api", "db"), ("api", "cache"), ("worker", "db"), ("worker", "cache"))
"""Within one application and environment."""
Rng = np.random.Generator
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ends:
    """Implements segctl_controller.flowstore.stamping.Ends: host N is app N % 200, its address 10.0.0.0 + N + 1."""

    hosts: int = HOSTS
    revision: int = 0

    def tags(self, host: str) -> str:
        return tags_of(int(host[1:]))

    def holder(self, remote: bytes) -> str:
        number = int.from_bytes(remote[12:]) - int(IPv4Address("10.0.0.0")) - 1
        return f"h{number}" if remote.startswith(MAPPED) and 0 <= number < self.hosts else ""

    def listener(self, host: str, protocol: int, port: int) -> str:
        role = ROLES[int(host[1:]) // 1000 % 5]
        return role if PORTS[role] == port else ""


def tags_of(number: int) -> str:
    """One of 5,000 groups of two hosts: 200 applications in 5 environments with 5 roles each."""
    return str(
        Tags.of({"app": f"a{number % APPS}", "env": ENVS[number // APPS % 5], "role": ROLES[number // 1000 % 5]})
    )


def process_of(role: str) -> str:
    return f"unit:{role}.service"


def neighbour(rng: Rng, hosts: Integers, roles: Integers) -> Integers:
    """Of each host one of the same application and environment with that role; there are two of each."""
    group = hosts % 1000
    return group + 1000 * (roles + 5 * rng.integers(0, 2, len(hosts)))


def policy(rules: int = RULES) -> Policy:
    """See policy_text."""
    parsed = parse_policy((SourceFile("policy.yaml", policy_text(rules).encode()),))
    assert parsed.policy is not None, parsed.findings[:3]
    return parsed.policy


def policy_text(rules: int = RULES) -> str:
    """Five rules for each application and environment, all enforced. One application in ten lacks the rule for its
    cache."""
    text = ["version: 1", "tags:"]
    text += [
        f"  {k}: [{', '.join(v)}]" for k, v in (("app", [f"a{n}" for n in range(APPS)]), ("env", ENVS), ("role", ROLES))
    ]
    text += ["services: {" + ", ".join(f"{role}: [tcp/{port}]" for role, port in PORTS.items()) + "}"]
    text += ["workloads:"]
    text += [f"  {role}: {{on: {{role: {role}}}, process: {{unit: {role}.service}}}}" for role in ROLES]
    text += ["modes: [{select: {}, mode: enforce}]", "rules:"]
    made = 0
    for app in range(APPS):
        for env in ENVS:
            for source, destination in CALLS:
                if made == rules:
                    break
                made += 1
                if (app % 10, source, destination) == (0, "api", "cache"):
                    continue
                ends = (f"{{app: a{app}, env: {env}, role: {role}}}" for role in (source, destination))
                rest = f"allow: [{destination}], owner: o, why: w"
                text.append(f"  - {{name: r{made}, from: {next(ends)}, to: {next(ends)}, {rest}}}")
    return "\n".join(text)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Columns of flows: host numbers, whether they came in, roles and remotes. One in twenty goes to the internet."""

    host: Integers
    role: Integers
    ingress: Integers
    remote: Integers
    port: Integers

    @classmethod
    def of(cls, rng: Rng, hosts: Integers) -> Traffic:
        """One flow for each of `hosts`: to a role that its own calls, or from one that calls it."""
        mine = hosts // 1000 % 5
        pairs = np.array([[ROLES.index(a), ROLES.index(b)] for a, b in CALLS])
        call = rng.integers(0, len(pairs), len(hosts))
        for _ in range(20):  # those whose role takes no part draw again
            out, into = pairs[call, 0] == mine, pairs[call, 1] == mine
            stray = ~(out | into)
            if not stray.any():
                break
            call[stray] = rng.integers(0, len(pairs), stray.sum())
        ingress = (pairs[call, 0] != mine).astype(np.int64)
        theirs = np.where(ingress == 1, pairs[call, 0], pairs[call, 1])
        remote = neighbour(rng, hosts, theirs) + 1 + int(IPv4Address("10.0.0.0"))
        port = np.array([PORTS[role] for role in ROLES])[pairs[call, 1]]
        abroad = rng.random(len(hosts)) < 0.05
        remote[abroad & (ingress == 0)] = int(IPv4Address("203.0.113.0")) + rng.integers(0, 200)
        return cls(hosts, mine, ingress, remote, port)


def message(rng: Rng, host: int, rows: int, sequence: int) -> bytes:
    """A serialized ReportBatch of one window of 5 s: a host that half of the fleet talks to."""
    traffic = Traffic.of(rng, np.full(rows, host))
    others = (10 << 24) + 1 + rng.choice(HOSTS, rows, replace=False)
    remotes = np.zeros((rows, 4), dtype=">u4")
    remotes[:, 2], remotes[:, 3] = 0xFFFF, others
    flows = agent_pb2.FlowBatch(
        from_us=NOW + sequence * 5_000_000,
        until_us=NOW + (sequence + 1) * 5_000_000,
        workloads=list(ROLES),
        rules=["", *(f"r{n}" for n in range(20))],
        workload=traffic.role.tolist(),
        rule=rng.integers(0, 21, rows).tolist(),
        direction=traffic.ingress.tolist(),
        remotes=remotes.tobytes(),
        protocol=[6] * rows,
        port=traffic.port.tolist(),
        flows=rng.integers(1, 50, rows).tolist(),
        bytes_sent=rng.integers(100, 1 << 20, rows).tolist(),
        bytes_received=rng.integers(100, 1 << 20, rows).tolist(),
        first_ms=rng.integers(0, 2000, rows).tolist(),
        last_ms=rng.integers(2000, 5000, rows).tolist(),
        verdict=[0] * rows,
        processes=[process_of(role) for role in ROLES],
        process=traffic.role.tolist(),
    )
    return agent_pb2.ReportBatch(epoch="e", sequence=sequence + 1, flows=flows).SerializeToString()


def week(rng: Rng, number: int) -> tuple[Traffic, Integers]:
    """Flows of all hosts over the 7 days before NOW, in the order of time, and the minute of each."""
    minutes = np.sort(rng.integers((NOW - 7 * DAY_US) // MINUTE_US, NOW // MINUTE_US, number))
    return Traffic.of(rng, rng.integers(0, HOSTS, number)), minutes
