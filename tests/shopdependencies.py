"""Who talks to whom in the recorded shop, as lab/nspawn/traffic.json has it, and what its attacker did: the truth that
recordings and suggestions are judged by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lab.recording import RecordedFlows, Recording

STRANGERS = "strangers"
"""Addresses that no host of the lab holds."""
ATTACKER, BROKEN = "stray1", "web2"
EXPORTER, SSHD, SSH = "unit:prometheus-node-exporter.service", "unit:ssh.service", "exe:/usr/bin/ssh"
NGINX, API, POSTGRES = "unit:nginx.service", "unit:shop-api.service", "unit:postgresql@15-main.service"
WEB, DEV = ("web1", "web2"), ("web-dev1", "api-dev1", "db-dev1")
ATTACKED = ("web1", "api1", "db1", "mon1")
SERVERS = (*WEB, "api1", "db1", "bastion1", "mon1", "backup1", *DEV)


@dataclass(frozen=True, slots=True)
class Dependency:
    """Every host of `sources` calls every one of `destinations`, but not itself. Unmanaged hosts tell no process, and
    have none."""

    name: str
    sources: tuple[str, ...]
    source_process: str
    destinations: tuple[str, ...]
    destination_process: str
    port: int

    def pairs(self) -> Iterator[tuple[str, str]]:
        return ((one, other) for one in self.sources for other in self.destinations if one != other)

    def has(self, recording: Recording, row: RecordedFlows) -> bool:
        """Whether these flows are of it, whoever told them; also where the process was not known."""
        far = recording.holder(row.remote) or STRANGERS
        source, destination = (far, row.host) if row.ingress else (row.host, far)
        process = self.destination_process if row.ingress else self.source_process
        fits = source in self.sources and destination in self.destinations and row.port == self.port
        return fits and row.process in (process, "")


DEPENDENCIES = (
    Dependency("customers", (STRANGERS,), "", WEB, NGINX, 80),
    Dependency("pages", WEB, NGINX, ("api1",), API, 8080),
    Dependency("pages in dev", ("web-dev1",), NGINX, ("api-dev1",), API, 8080),
    Dependency("orders", ("api1",), API, ("db1",), POSTGRES, 5432),
    Dependency("orders in dev", ("api-dev1",), API, ("db-dev1",), POSTGRES, 5432),
    Dependency("backup", ("backup1",), "unit:cron.service", ("db1",), POSTGRES, 5432),
    Dependency("monitoring", ("mon1",), "unit:scraper.service", SERVERS, EXPORTER, 9100),
    Dependency("administrators", ("office1",), "", ("bastion1",), SSHD, 22),
    Dependency("administration", ("bastion1",), SSH, SERVERS, SSHD, 22),
    Dependency("developers", ("office1",), "", ("web-dev1",), NGINX, 80),
)
ATTACK = (
    Dependency("ssh from outside", (ATTACKER,), "", ATTACKED, SSHD, 22),
    Dependency("API from outside", (ATTACKER,), "", ("api1",), API, 8080),
    Dependency("database from outside", (ATTACKER,), "", ("db1",), POSTGRES, 5432),
    Dependency("ssh sideways", (BROKEN,), NGINX, ATTACKED, SSHD, 22),
    Dependency("web server sideways", (BROKEN,), NGINX, ("web1",), NGINX, 80),
    Dependency("database sideways", (BROKEN,), NGINX, ("db1",), POSTGRES, 5432),
)
PUBLIC = Dependency("the attacker at the pages that are for everybody", (ATTACKER,), "", WEB, NGINX, 80)
