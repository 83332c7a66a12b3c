"""The clients of traffic.json, on two machines of their own."""

import re
from dataclasses import replace

from lab.nspawn.lab import NspawnLab
from lab.nspawn.record import TRAFFIC
from lab.topology import load_topology
from lab.wait import until

CUSTOMERS, SCRAPER = (f"/usr/bin/python3 -I /opt/lab/traffic/{name}.py" for name in ("customers", "scraper"))


def test_strangers_ask_for_pages_and_metrics_are_read():
    recorded = load_topology(TRAFFIC)
    web1, client1, mon1 = (recorded.host(name) for name in ("web1", "client1", "mon1"))
    services = (replace(web1.unit("nginx.service"), backend=""), web1.unit("prometheus-node-exporter.service"))
    clients = (
        replace(client1.unit("customers.service"), command=f"{CUSTOMERS} 0.1 web1"),
        replace(mon1.unit("scraper.service"), command=f"{SCRAPER} 1 web1"),
    )
    hosts = (replace(web1, units=services), replace(client1, units=clients))
    with NspawnLab(replace(recorded, hosts=hosts, controller="web1"), installed=False) as lab:
        machine = lab.machines["client1"]

        def said(unit, words):
            return re.search(words, machine.journal(unit)) is not None

        until("a stranger gets a page", lambda: said("customers.service", r"24\d\.\S+ web1/: 200"), 15, every=0.2)
        until("metrics are read", lambda: said("scraper.service", r"web1: \d{3,} series"), 15, every=0.2)
