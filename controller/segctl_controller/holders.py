"""Who holds certificates of which CA: what a rotation waits for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from segctl.proto.v1 import admin_pb2

from segctl_controller.authority import Authority, certificate_end
from segctl_controller.rotation import CaSet
from segctl_controller.servercert import ServerCertificate
from segctl_controller.store.protocol import Store
from segctl_controller.store.records import HostRecord


@dataclass(frozen=True, slots=True)
class Holders:
    """Names of those whose certificate in use is of one CA, or of one that was retired."""

    hosts: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()


def count_holders(store: Store, cas: CaSet) -> dict[Authority | None, Holders]:
    """For each CA of `cas`, and None for what a retired one gave."""
    hosts = [(host.name, cas.giver(host.serial)) for host in store.hosts()]
    # An operator without a certificate holds none that could end.
    operators = [(one.name, cas.giver(one.serial)) for one in store.operators() if one.serial]
    return {authority: Holders(_of(hosts, authority), _of(operators, authority)) for authority in (*cas.trusted, None)}


class CaView:
    """The CAs of a running controller, as operators see them."""

    def __init__(self, certificate: ServerCertificate, hosts: Mapping[str, HostRecord]) -> None:
        self._certificate, self._hosts = certificate, hosts

    def trusted(self) -> tuple[bytes, ...]:
        """DER."""
        return self._certificate.current().cas.der

    def status(self) -> admin_pb2.CaStatus:
        shown = self._certificate.current()
        return _status(shown.cas, self._hosts.values(), certificate_end(shown.credential.certificate))


def _status(cas: CaSet, hosts: Iterable[HostRecord], controller_until: datetime) -> admin_pb2.CaStatus:
    givers = Counter(cas.giver(host.serial) for host in hosts)
    return admin_pb2.CaStatus(
        stage=cas.stage,
        cas=[
            admin_pb2.Ca(
                certificate=authority.ca_der,
                name=authority.name,
                until_us=_us(authority.ends),
                signs=authority is cas.signing,
                hosts=givers[authority],
            )
            for authority in cas.trusted
        ],
        controller_until_us=_us(controller_until),
    )


def _us(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000


def _of(held: Iterable[tuple[str, Authority | None]], authority: Authority | None) -> tuple[str, ...]:
    return tuple(name for name, giver in held if giver is authority)
