"""A monitoring system: python3 scraper.py SECONDS HOST... reads the metrics of every host's Prometheus node exporter
each time that SECONDS are over."""

import sys
import time
import urllib.request

PORT = 9100


def scrape(host: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{host}:{PORT}/metrics", timeout=3) as answer:
            series = sum(not line.startswith(b"#") for line in answer)
    except OSError as error:
        return f"{host}: {error}"
    return f"{host}: {series} series"


def main() -> None:
    seconds, hosts = float(sys.argv[1]), sys.argv[2:]
    while True:
        for host in hosts:
            print(scrape(host), flush=True)
        time.sleep(seconds)


main()
