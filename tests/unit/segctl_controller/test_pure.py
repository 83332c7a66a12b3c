"""The parts without I/O: address claims, names, certificates, the date in the fleet."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from segctl.errors import PolicyError, SegctlError, StateError
from segctl.model.policy import Essentials, Policy, Tags
from segctl.policy.parse import parse_policy
from segctl.policy.source import SourceFile
from segctl.proto.v1 import agent_pb2
from segctl_controller import errors
from segctl_controller.authority import CA_LIFE, Authority
from segctl_controller.clock import Clock
from segctl_controller.contest import Origin
from segctl_controller.errors import InvalidRequestError, status_of
from segctl_controller.facts import judge
from segctl_controller.fleet import Fleet
from segctl_controller.names import checked_name, checked_tags
from segctl_controller.registry import Registry
from segctl_controller.store.memory import MemoryStore
from segctl_controller.store.records import Entry, HostRecord
from segctl_controller.store_thread import StoreThread
from segctl_controller.trial import Active

from tests.controller_harness import eventually
from tests.unit.segctl_controller.policies import SHOP

NOW = datetime(2030, 1, 1, tzinfo=UTC)
CONTROLLER = ip_address("10.0.0.100")


def host(addresses: tuple[str, ...] = (), networks: tuple[str, ...] = ()) -> HostRecord:
    return HostRecord(
        "web1", Tags(), "aa", 1, tuple(map(ip_network, networks)), tuple(ip_address(a) for a in addresses)
    )


@pytest.mark.parametrize(
    ("record", "claim", "source", "words"),
    [
        (host(), "10.0.0.1", None, ""),
        (host(), "10.0.0.2", None, "host db1 holds it"),
        (host(networks=("10.0.0.0/24",)), "10.0.0.2", None, "host db1 holds it"),
        (host(networks=("10.0.0.0/24",)), "10.0.1.1", None, "its token allows only 10.0.0.0/24"),
        (host(networks=("10.0.0.0/24",)), "2001:db8::1", None, "its token allows only"),
        (host(), "192.0.2.53", None, "essentials (dns)"),
        (host(), "192.0.2.123", None, "essentials (ntp)"),
        (host(), "198.51.100.7", None, "essentials (rescue)"),
        (host(networks=("192.0.2.0/24",)), "192.0.2.53", None, "essentials (dns)"),
        (host(networks=("192.0.2.53/32",)), "192.0.2.53", None, ""),
        (host(addresses=("192.0.2.53",)), "192.0.2.53", None, ""),
        (host(), "10.0.0.100", "10.0.0.1", "the controller's own address"),
        (host(), "10.0.0.100", "10.0.0.100", ""),
        (host(), "10.0.0.100", "127.0.0.1", ""),
        (host(networks=("10.0.0.100/32",)), "10.0.0.100", "10.0.0.1", ""),
    ],
)
def test_which_claims_are_accepted(record: HostRecord, claim: str, source: str | None, words: str) -> None:
    essentials = Essentials(
        dns=(ip_network("192.0.2.53/32"),), ntp=(ip_network("192.0.2.123/32"),), rescue=(ip_network("198.51.100.0/28"),)
    )
    address = ip_address(claim)
    holders = {ip_address("10.0.0.2"): "db1"}
    came_from = ip_address(source) if source else None
    judged = judge(record, [address], holders, essentials, [CONTROLLER], came_from)
    if words:
        assert judged.accepted == ()
        assert words in judged.refused[0][1]
    else:
        assert judged == type(judged)((address,), ())


def test_accepted_addresses_are_sorted_and_unique() -> None:
    claims = [ip_address(a) for a in ("2001:db8::1", "10.0.0.9", "10.0.0.1", "10.0.0.9")]
    judged = judge(host(), claims, {}, Essentials(), [], None)
    assert [str(a) for a in judged.accepted] == ["10.0.0.1", "10.0.0.9", "2001:db8::1"]


@pytest.mark.parametrize("name", ["web1", "a", "web-1.shop.example", "0db", "a_b"])
def test_good_names(name: str) -> None:
    assert checked_name(name, "host") == name


@pytest.mark.parametrize("tags", [{"a b": "c"}, {"a": ""}, {"": "x"}, {"a": "x" * 64}, {"A": "x"}, {"a": "x\n"}])
def test_malformed_tags(tags: dict[str, str]) -> None:
    with pytest.raises(InvalidRequestError, match="malformed"):
        checked_tags(tags, None)


def test_every_error_of_the_controller_has_a_status() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, SegctlError)]
    assert len(kinds) > 10
    for kind in set(kinds) - {SegctlError}:
        made = PolicyError(()) if kind is PolicyError else kind("x")
        assert status_of(made).name != "INTERNAL", kind


def test_the_ca_can_sign_nothing_but_leaves_and_survives_a_reload(tmp_path: Path) -> None:
    authority = Authority.create("seg-1", NOW)
    authority.save(tmp_path)
    again = Authority.load(tmp_path, "seg-1")
    assert again.ca_pem == authority.ca_pem
    ca = x509.load_pem_x509_certificate(again.ca_pem)
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert ca.not_valid_after_utc - NOW == CA_LIFE
    server = x509.load_pem_x509_certificate(again.issue_server(("c.example", "::1"), NOW).certificate)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://seg-1/controller"]
    assert names.get_values_for_type(x509.DNSName) == ["c.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("::1")]
    assert server.not_valid_before_utc == NOW - timedelta(minutes=5)
    server.verify_directly_issued_by(ca)


def test_a_key_of_another_ca_is_refused(tmp_path: Path) -> None:
    Authority.create("seg-1", NOW).save(tmp_path)
    (tmp_path / "ca.pem").write_bytes(Authority.create("seg-1", NOW).ca_pem)
    with pytest.raises(StateError, match=r"ca.key: this key does not belong to .*ca.pem"):
        Authority.load(tmp_path, "seg-1")


@pytest.mark.parametrize(
    ("expires", "just_before"),
    [("2030-01-01", timedelta(days=1)), ("2030-01-01T18:00Z", timedelta(hours=18))],
)
async def test_a_rule_ends_without_anybody_doing_anything(expires: str, just_before: timedelta) -> None:
    text = SHOP.replace("why: orders", f"why: orders, expires: {expires}")
    policy = parse_policy([SourceFile("p.yaml", text.encode())]).policy
    assert isinstance(policy, Policy)
    now = [int((NOW + just_before - timedelta(seconds=1)).timestamp() * 1e6)]
    told: list[str] = []
    fleet = Fleet(Clock(lambda: now[0]), told.append)
    fleet.put_host(HostRecord("web1", Tags.of({"role": "web"}), "aa", 1))
    fleet.activate(Active(1, "d", policy))
    task = asyncio.create_task(fleet.run())

    async def told_twice() -> bool:
        return told == ["web1", "web1"]

    async def told_once() -> bool:
        return told == ["web1"]

    await eventually(told_once)
    first = fleet.desired["web1"]
    now[0] += 2_000_000
    await eventually(told_twice)
    assert fleet.desired["web1"].generation == first.generation
    assert len(fleet.desired["web1"].wire) < len(first.wire)
    now[0] -= 3_600_000_000  # the clock was wrong, and jumps back

    async def told_again() -> bool:
        return told == ["web1"] * 3

    fleet.put_host(replace(fleet.hosts["web1"], addresses=(ip_address("10.0.0.1"),)))
    await eventually(told_again)
    assert len(fleet.desired["web1"].wire) == len(first.wire)
    task.cancel()


async def test_many_changes_of_membership_are_compiled_once() -> None:
    policy = parse_policy([SourceFile("p.yaml", SHOP.encode())]).policy
    assert isinstance(policy, Policy)
    told: list[str] = []
    fleet = Fleet(Clock(), told.append)
    fleet.activate(Active(1, "d", policy))
    task = asyncio.create_task(fleet.run())
    await asyncio.sleep(0)
    for number in range(50):
        addresses = (ip_address(f"10.0.0.{number}"),)
        fleet.put_host(HostRecord(f"web{number}", Tags.of({"role": "web"}), "aa", 1, addresses=addresses))
        await asyncio.sleep(0)
    with fleet.watch() as changed:
        fleet.put_host(HostRecord("db1", Tags.of({"role": "db"}), "aa", 1))
        async with asyncio.timeout(5):
            while "db1" not in fleet.desired:
                await changed.wait()
                changed.take()
    task.cancel()
    assert sorted(told) == sorted(fleet.hosts)


async def test_a_change_is_finished_when_its_caller_hangs_up() -> None:
    thread = StoreThread(MemoryStore())
    begun, done, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def change() -> None:
        begun.set()
        await go.wait()
        await thread.call(thread.store.add_entry, Entry(1, "root", "push", "generation 1"))
        done.set()

    caller = asyncio.create_task(thread.whole(change()))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go.set()
    async with asyncio.timeout(5):
        await done.wait()
    assert len(await thread.call(thread.store.entries, 5)) == 1
    thread.close()


def test_an_address_has_one_holder_whatever_the_order_of_changes() -> None:
    fleet = Fleet(Clock(), lambda _name: None)
    one, two = ip_address("10.0.0.1"), ip_address("10.0.0.2")
    fleet.put_host(HostRecord("a", Tags(), "aa", 1, addresses=(one,)))
    fleet.put_host(HostRecord("b", Tags(), "aa", 1, addresses=(two,)))
    fleet.put_host(HostRecord("a", Tags(), "aa", 1, addresses=(one,), last_seen_us=5))
    assert fleet.holders == {one: "a", two: "b"}
    assert fleet.inventory.hosts["a"].addresses == (one,)
    fleet.put_host(HostRecord("a", Tags(), "aa", 1))
    fleet.put_host(HostRecord("b", Tags(), "aa", 1, addresses=(one, two)))
    assert fleet.holders == {one: "b", two: "b"}
    fleet.drop_host("b")
    assert fleet.holders == {}
    assert list(fleet.inventory.hosts) == ["a"]


class Offered:
    """A session that keeps what it is offered."""

    host, origin, lives, previews = "web1", Origin(), True, False

    def __init__(self) -> None:
        self.withdrawn: list[str] = []

    def offer(self, _orders: object, withdrawn: str = "") -> None:
        self.withdrawn.append(withdrawn)


async def test_why_a_trial_was_undone_is_told_though_the_next_one_began() -> None:
    db = StoreThread(MemoryStore())
    registry = Registry(lambda offer: Fleet(Clock(), offer), db, Clock())
    registry.fleet.put_host(HostRecord("web1", Tags(), "aa", 1))
    session = Offered()
    registry.register(session, agent_pb2.Hello(), SegctlError("a newer one"))  # type: ignore[arg-type]
    session.withdrawn.clear()
    registry.fleet.withdrawn = "web2 refused it"
    registry._offer("web1")
    registry.fleet.withdrawn = ""
    registry._offer("web1")

    async def told() -> bool:
        return session.withdrawn == ["web2 refused it"]

    await eventually(told)
    db.close()
