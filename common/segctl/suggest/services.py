"""Names for ports that policies do not name yet, and the services that are meant for everybody."""

from __future__ import annotations

from collections.abc import Mapping

from segctl.model.policy import Policy, PortRange

# From the registry of service names and port numbers, https://www.iana.org/assignments/service-names-port-numbers,
# and what Debian's packages listen on.
_TCP = {
    22: "ssh",
    25: "smtp",
    53: "dns",
    80: "http",
    88: "kerberos",
    389: "ldap",
    443: "https",
    514: "syslog",
    587: "submission",
    636: "ldaps",
    873: "rsync",
    993: "imaps",
    1433: "mssql",
    2049: "nfs",
    2379: "etcd",
    3306: "mysql",
    3389: "rdp",
    5432: "postgres",
    5671: "amqps",
    5672: "amqp",
    6379: "redis",
    6514: "syslog-tls",
    9090: "prometheus",
    9092: "kafka",
    9100: "node-exporter",
    9200: "elasticsearch",
    9418: "git",
    11211: "memcached",
    27017: "mongodb",
}
_UDP = {53: "dns-udp", 123: "ntp", 161: "snmp", 443: "quic", 514: "syslog-udp"}
_PUBLIC = frozenset(
    [
        *(PortRange("tcp", port, port) for port in (25, 53, 80, 443)),
        *(PortRange("udp", port, port) for port in (53, 123, 443)),
    ]
)


def well_known(port: PortRange) -> str:
    """The name of the service, empty where it has none."""
    table = {"tcp": _TCP, "udp": _UDP}.get(port.protocol, {})
    return table.get(port.low, "") if port.low == port.high else ""


def is_public(port: PortRange) -> bool:
    """Whether a service is one that strangers are meant to use: of any other, addresses everywhere are no clients."""
    return port in _PUBLIC


class ServiceNames:
    """What a rule calls a port: the declared service that is exactly it, else a name of its own, which is declared
    with the rule. `listeners` are the words for the programs that have the port."""

    def __init__(self, policy: Policy, listeners: Mapping[PortRange, frozenset[str]]) -> None:
        self._taken = {name: s.ports for name, s in policy.services.items()}
        self._declared = {s.ports[0]: s.name for s in policy.services.values() if len(s.ports) == 1}
        self._listeners = listeners

    def name(self, port: PortRange) -> str:
        if port in self._declared:
            return self._declared[port]
        if port.protocol not in ("tcp", "udp"):
            return str(port)
        words = sorted(self._listeners.get(port, ()))
        own = f"{words[0]}-{port.low}" if len(words) == 1 and port.protocol == "tcp" else ""
        plain = f"{port.protocol}-{port.low}"
        free = (n for n in (well_known(port), own, plain) if n and len(n) <= 40 and n not in self._taken)
        return next(free, str(port))

    def is_new(self, name: str, port: PortRange) -> bool:
        return name != str(port) and self._declared.get(port) != name
