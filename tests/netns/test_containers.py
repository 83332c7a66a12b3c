"""Real containers with a network of their own, judged by address where their host forwards: podman, netavark, NAT."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from segctl.model.hostpolicy import Entry, Group, LocalWorkload
from segctl.model.policy import Mode, Process, ProcessKind

from tests.netns.containerlab import NEIGHBOUR, OWN, REMOTE, STRANGER, Lab, Machine, container_lab
from tests.netns.podman import PODMAN, PRIVILEGED, UNLOGGED
from tests.netns.samples import host_workload, networks, policy, ports
from tests.netns.spaces import run
from tests.netns.test_agent_process import agent, enrolled, start, table, until

pytestmark = pytest.mark.kernel

GROUPS = (Group("fleet", networks(f"{OWN}/32", f"{REMOTE}/32")), Group("here", networks(f"{OWN}/32")))
WEB = LocalWorkload(
    "web",
    Process(ProcessKind.CONTAINER, "web*"),
    Mode.ENFORCE,
    ingress=(Entry("published", "fleet", (ports(8080), ports(8000, 8010)), managed=True),),
    egress=(
        Entry("updates", "fleet", (ports(443), ports(8, 8, "icmp")), managed=True),
        Entry("database", "here", (ports(5432),), managed=True),
    ),
)
DATABASE = LocalWorkload(
    "db",
    Process(ProcessKind.CGROUP, "db"),
    Mode.ENFORCE,
    ingress=(Entry("database", "here", (ports(5432),), managed=True),),
    egress=(Entry("direct", "here", (ports(80),), managed=True),),
)
LOCKED = policy(host_workload(Mode.ENFORCE), WEB, DATABASE, groups=GROUPS)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with container_lab() as made:
        yield made


def test_a_published_port_is_judged_as_it_was_dialled(lab: Lab) -> None:
    async def scenario(m: Machine) -> None:
        await m.run("web1", "-p", "8080:80", "-p", "8005:80", "-p", "8081:80", port=80)
        m.enforcer.put(LOCKED)
        results = await asyncio.gather(
            m.connect(OWN, 8080, network=m.remote, source=REMOTE),
            m.connect(OWN, 8005, network=m.remote, source=REMOTE),
            m.connect(OWN, 8081, network=m.remote, source=REMOTE, seconds=1.5),
            m.connect(OWN, 8080, network=m.remote, source=STRANGER, seconds=1.5),
        )
        assert results == ["connected", "connected", "timed out", "timed out"]
        await m.told("in", "web")

    lab.play(scenario)


def test_what_a_container_opens_is_its_workloads_egress(lab: Lab) -> None:
    async def scenario(m: Machine) -> None:
        await m.listen(443, 444, network=m.remote)
        web = await m.run("web1")
        other = await m.run("batch")
        m.enforcer.put(LOCKED)
        results = await asyncio.gather(
            m.connect(REMOTE, 443, network=web),
            m.connect(REMOTE, 444, network=web),
            m.connect(STRANGER, 443, network=web),
            m.connect(REMOTE, 443, network=other),
        )
        assert results[0] == "connected"
        assert all("No route to host" in r for r in results[1:]), results
        await m.told("out", "web")
        await m.told("out", "host")  # a container that nothing names
        assert m.attributed() >= {"container:web1", "container:batch"}

    lab.play(scenario)


def test_a_container_in_the_hosts_network_is_told_by_its_cgroup(lab: Lab) -> None:
    async def scenario(m: Machine) -> None:
        await m.listen(443, network=m.remote)
        m.enforcer.put(LOCKED)
        await m.run("web1", "--network", "host", port=8001)
        await m.run("batch", "--network", "host", port=8002)
        cgroup = m.facts["web1"].cgroup
        results = await asyncio.gather(
            m.connect(OWN, 8001, network=m.remote, source=REMOTE),
            m.connect(REMOTE, 443, cgroup=cgroup),
            m.connect(OWN, 8002, network=m.remote, source=REMOTE, seconds=1.5),  # the right port, of another container
            m.connect(STRANGER, 443, cgroup=cgroup),
        )
        assert results == ["connected", "connected", "timed out", "[Errno 113] No route to host"]
        await m.told("out", "web")
        await m.told("in", "host")

    lab.play(scenario)


def test_a_host_that_names_no_container_forwards_as_before(lab: Lab) -> None:
    async def scenario(m: Machine) -> None:
        await m.listen(443, network=m.remote)
        container = await m.run("batch")
        m.enforcer.put(policy(host_workload(Mode.ENFORCE), DATABASE, groups=GROUPS))
        assert await m.connect(REMOTE, 443, network=container) == "connected"
        assert m.enforcer.wanted is not None
        assert {n for n, c in m.enforcer.wanted.chains.items() if c.base is not None} == {"input", "output"}

    lab.play(scenario)


def test_a_container_that_is_not_known_yet_is_closed_and_heals(lab: Lab) -> None:
    async def scenario(m: Machine) -> None:
        await m.listen(443, network=m.remote)
        m.enforcer.put(LOCKED)
        m.slow.blind = "web1"
        web = await m.run("web1", known=False)
        attempt = asyncio.create_task(m.connect(REMOTE, 443, network=web))
        await m.told("out", "?")
        assert not attempt.done()
        m.slow.blind = ""
        m.containers.refresh()
        assert await attempt == "connected"  # by the retransmit of its SYN
        assert m.problems == []

    lab.play(scenario)


def test_containers_and_their_host_are_two_ends(lab: Lab) -> None:
    async def scenario(m: Machine) -> None:
        web = await m.run("web1", port=80)
        m.enforcer.put(LOCKED)
        await m.listen(5432, cgroup="db")
        await m.listen(5433)
        direct = replace(WEB, ingress=(Entry("direct", "here", (ports(80),), managed=True),))
        assert await m.connect(m.address("web1"), 80, cgroup="db", seconds=1.5) == "timed out"  # the container's end
        m.enforcer.put(policy(host_workload(Mode.ENFORCE), direct, DATABASE, groups=GROUPS))
        results = await asyncio.gather(
            m.connect("10.88.0.1", 5432, network=web),  # the gateway is an address of the host
            m.connect(OWN, 5432, network=web),
            m.connect(OWN, 5433, network=web),
            m.connect(m.address("web1"), 80, cgroup="db"),
            m.connect(m.address("web1"), 80),
        )
        await m.run("web2", "-p", "8080:80", port=80)
        published = replace(WEB, ingress=(Entry("published", "here", (ports(8080),), managed=True),))
        m.enforcer.put(policy(host_workload(Mode.ENFORCE), published, DATABASE, groups=GROUPS))
        for own in (OWN, "127.0.0.1"):  # for the host's own end this way is loopback
            assert await m.connect(own, 8080, cgroup="db") == "connected"
        m.enforcer.put(policy(host_workload(Mode.ENFORCE), replace(WEB, ingress=()), DATABASE, groups=GROUPS))
        assert await m.connect(OWN, 8080, cgroup="db", seconds=1.5) == "timed out"
        assert results[:2] == ["connected", "connected"]
        assert results[3] == "connected"
        assert all("No route to host" in results[i] for i in (2, 4)), results

    lab.play(scenario)


def test_a_datagram_into_the_host_passes_by_both_ends(lab: Lab) -> None:
    async def scenario(m: Machine) -> None:
        web = await m.run("web1")
        await m.answer(5353, cgroup="db")
        either = Entry("datagrams", "here", (ports(5353, 5353, "udp"),), managed=True)
        asking, answering = replace(WEB, egress=(either,)), replace(DATABASE, ingress=(either,))
        results = []
        for workloads in ((asking, answering), (WEB, answering), (asking, DATABASE)):
            m.enforcer.put(policy(host_workload(Mode.ENFORCE), *workloads, groups=GROUPS))
            results.append(await m.ask("10.88.0.1", 5353, web))  # its answers leave from there
        assert results == ["answered", "[Errno 113] No route to host", "timed out"]

    lab.play(scenario)


def test_two_containers_of_one_host_are_two_ends(lab: Lab) -> None:
    async def scenario(m: Machine) -> None:
        await m.run("web1", "-p", "8080:80", port=80)
        job = await m.run("job", "--network", "other")
        ask = Entry("ask", "fleet", (ports(8080), ports(80)), managed=True)
        caller = LocalWorkload("job", Process(ProcessKind.CONTAINER, "job"), Mode.ENFORCE, egress=(ask,))
        m.enforcer.put(policy(host_workload(Mode.ENFORCE), WEB, caller, groups=GROUPS))
        results = await asyncio.gather(
            m.connect(OWN, 8080, network=job),  # as it is published
            m.connect(m.address("web1"), 80, network=job, seconds=1.5),  # its own port: not in web's rule
        )
        assert results == ["connected", "timed out"]
        silent = replace(caller, egress=())
        m.enforcer.put(policy(host_workload(Mode.ENFORCE), WEB, silent, groups=GROUPS))
        assert "No route to host" in await m.connect(OWN, 8080, network=job)
        await m.told("out", "job")

    lab.play(scenario)


def test_narrowing_ends_the_sessions_of_containers(lab: Lab) -> None:
    async def scenario(m: Machine) -> None:
        await m.echo(443, m.remote)
        web = await m.run("web1", "-p", "8080:80")
        await m.echo(80, web)
        m.enforcer.put(LOCKED)
        outgoing = await m.session(REMOTE, 443, web)
        incoming = await m.session(OWN, 8080, m.remote, source=REMOTE)
        assert [await outgoing(), await incoming()] == ["answered", "answered"]
        m.enforcer.put(policy(host_workload(Mode.ENFORCE), replace(WEB, egress=()), DATABASE, groups=GROUPS))
        assert await incoming() == "answered"
        assert await outgoing() == "[Errno 104] Connection reset by peer"
        m.enforcer.put(policy(host_workload(Mode.ENFORCE), replace(WEB, ingress=()), DATABASE, groups=GROUPS))
        assert await incoming() in ("timed out", "[Errno 104] Connection reset by peer")

    lab.play(scenario)


def test_a_router_that_enforces_forwards_what_is_no_containers(lab: Lab) -> None:
    async def scenario(m: Machine) -> None:
        await m.listen(443, network=m.neighbour)
        await m.run("web1")
        m.enforcer.put(LOCKED)
        assert await m.connect(NEIGHBOUR, 443, network=m.remote) == "connected"

    lab.play(scenario)


def test_the_agent_knows_containers_from_boot_on_and_follows_them(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "state"

    def container(name: str) -> None:
        run(*PODMAN, "run", "-d", "--name", name, *PRIVILEGED, *UNLOGGED, "box", "/serve")

    def judged() -> set[str]:
        """The chains that containers' addresses lead to, in the kernel."""
        held = table()
        assert held is not None
        return {str(verdict) for verdict in held.sets["ctr4_out"].elements.values()}

    def host() -> None:
        enrolled(folder, generation=False).write_generation(replace(LOCKED, host="db-1"), (1, 1))
        container("web1")
        loaded = agent("load", "--state", str(folder))
        assert loaded.returncode == 0, loaded.stderr
        assert judged() == {"goto f_web_out"}
        process = start(folder)
        try:
            assert judged() == {"goto f_web_out"}
            container("batch")
            until(lambda: judged() == {"goto f_web_out", "goto f_host_out"})
            run(*PODMAN, "rm", "-f", "-t", "0", "web1")
            until(lambda: judged() == {"goto f_host_out"})
        finally:
            process.terminate()
            process.wait(10)
        assert agent("release", "--state", str(folder)).returncode == 0

    try:
        lab.host.space.run(host)
    finally:
        lab.host.podman("rm", "-f", "-a", "-t", "0")
