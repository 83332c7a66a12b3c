"""The agent dials the addresses that it opens in the kernel, and no others."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.kernel

HOSTS = "127.0.0.1 localhost\n127.0.0.9 ctl.example.net ctl\nfd77::10 ctl\n"
MACHINE = """
mount --bind "$1" /etc/hosts
ip link set lo up
ip address add fd77::10/128 dev lo nodad
exec "$2" -c "$3" "$4"
"""
DIAL = """
import socket, sys
if sys.argv[1] == "agent":
    import segctl_agent
import grpc
doors = {name: socket.create_server((name, 7443), family=family)
         for name, family in (("127.0.0.9", socket.AF_INET), ("fd77::10", socket.AF_INET6))}
channel = grpc.insecure_channel("ctl.example.net:7443")
channel.subscribe(lambda state: None, try_to_connect=True)
for name, door in doors.items():
    door.settimeout(2)
    try:
        door.accept()
    except TimeoutError:
        continue
    print(name)
"""


def dialled(tmp_path, who):
    """The addresses that gRPC connects to, on a machine with these names where all of them answer TCP."""
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS)
    unshared = ["unshare", "--mount", "--net", "sh", "-ec", MACHINE, "sh", str(hosts), sys.executable, DIAL, who]
    environment = {k: v for k, v in os.environ.items() if k != "GRPC_DNS_RESOLVER"}  # set by tests before this one
    done = subprocess.run(unshared, env=environment, text=True, capture_output=True, check=True, timeout=60)
    return done.stdout.split()


def test_names_mean_to_grpc_what_they_mean_to_the_system(tmp_path):
    assert dialled(tmp_path, "agent") == ["127.0.0.9"]
    assert "fd77::10" in dialled(tmp_path, "anybody else")  # else this is no test
