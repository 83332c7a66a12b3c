"""Customers from all over the internet: python3 customers.py SECONDS HOST... asks one of the hosts for a page each time
that SECONDS are over, from an address that belongs to nobody (lab.topology.INTERNET)."""

import http.client
import itertools
import random
import sys
import time

ADDRESSES = [
    *("100.64.7.21", "100.88.3.4", "192.0.2.17", "192.0.2.140", "198.18.4.9", "198.51.100.33", "203.0.113.5"),
    *(f"{first}.{first % 7 * 31}.{third}.{first - third}" for first in range(240, 252) for third in (12, 93)),
]
PAGES = ("/", "/api/", "/api/")


def ask(host: str, page: str, source: str) -> str:
    link = http.client.HTTPConnection(host, 80, timeout=5, source_address=(source, 0))
    try:
        link.request("GET", page)
        return f"{source} {host}{page}: {link.getresponse().status}"
    except OSError as error:
        return f"{source} {host}{page}: {error}"
    finally:
        link.close()


def main() -> None:
    seconds, hosts = float(sys.argv[1]), sys.argv[2:]
    chance = random.Random(1)
    for host in itertools.cycle(hosts):
        print(ask(host, chance.choice(PAGES), chance.choice(ADDRESSES)), flush=True)
        time.sleep(seconds)


main()
