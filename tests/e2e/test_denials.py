"""A refused connection comes back with its process, its rule and the change that would allow it, and soon."""

import json
import os
import subprocess
import time
from contextlib import contextmanager
from datetime import datetime

from lab.chapters import NGINX
from lab.fleet import BIN
from lab.flows import Flow, wrong
from lab.host import PROGRAM, PYTHON
from lab.wait import until

GENEROUS_SECONDS = 2.0

# A connect that does not block, as servers make it: the socket is closed at its first error, the process lives on.
POLLING = """import select, socket, sys, time
start, s, poll = time.monotonic(), socket.socket(), select.poll()
s.setblocking(False)
s.connect_ex((sys.argv[1], int(sys.argv[2])))
poll.register(s)
poll.poll()
code = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
s.close()
print(code, time.monotonic() - start, flush=True)
sys.stdin.read()
"""


def denials(fleet, **wanted):
    def fits(one):
        return all(one[key] == value for key, value in wanted.items())

    return [one for one in fleet.records("denied", "--limit", "1000") if fits(one)]


@contextmanager
def following(fleet):
    """The lines of `segctl denied --follow --json`, as they come."""
    command = ["env", f"SEGCTL_CONFIG={fleet.admin_directory}", str(BIN / "segctl"), "denied", "--follow", "--json"]
    with subprocess.Popen(fleet.control.place.argv(command), stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout
        finally:
            process.terminate()


def next_about(fleet, lines, port):
    """Let cron on web1 call db1 at `port`, and wait for the line about it."""
    command = [*PROGRAM, "call", "db1", str(port), "--timeout", "3"]
    client = fleet.lab.hosts["web1"].popen(command, unit="cron.service", user="shop")
    found = next(line for line in lines if f'"tcp/{port}"' in line)
    client.wait()
    return json.loads(found)


def test_a_denial_reaches_the_terminal_with_its_process(fleet, record_property):
    with following(fleet) as lines:
        next_about(fleet, lines, 10)  # the stream is open from here on; no port below has been tried before
        one = next_about(fleet, lines, 9)
        seconds = time.time() - datetime.fromisoformat(one["first_seen"]).timestamp()
    record_property("denial_to_terminal_s", round(seconds, 3))
    print(f"from the kernel's denial to the terminal: {seconds * 1000:.0f} ms")
    assert seconds < GENEROUS_SECONDS
    assert (one["host"], one["direction"], one["workload"], one["verdict"]) == ("web1", "egress", "host", "denied")
    assert (one["peer_host"], one["service"]) == ("db1", "tcp/9")
    assert one["process"]["unit"] == "cron.service"
    assert one["process"]["user"] == "shop"
    assert "call db1 9" in one["process"]["command"]
    assert one["process"]["pid"] > 0
    assert one["suggestion"]


def test_a_client_that_polls_and_closes_at_once_is_named_too(fleet):
    with following(fleet) as lines:
        next_about(fleet, lines, 12)  # the stream is open from here on
        command = [PYTHON, "-c", POLLING, "db1", "13"]
        client = fleet.lab.hosts["web1"].popen(command, unit="cron.service", user="shop", stdin=subprocess.PIPE)
        one = json.loads(next(line for line in lines if '"tcp/13"' in line))
        code, seconds = client.stdout.readline().split()
        client.communicate("")
    assert os.strerror(int(code)) == "No route to host"
    assert 0.9 < float(seconds) < GENEROUS_SECONDS
    assert (one["process"]["unit"], one["process"]["user"], one["count"]) == ("cron.service", "shop", 1)
    assert one["process"]["pid"] > 0
    assert "connect_ex" in one["process"]["command"]


def test_the_refusing_end_names_its_listener_and_the_sender(fleet):
    assert wrong(fleet, Flow("client1", "", "web1", 22, False, families="6")) == []
    one = until("web1 told of it", lambda: denials(fleet, host="web1", direction="ingress", service="tcp/22"), 5)[-1]
    assert one["peer_address"] == "fd77:200::5"
    assert one["process"]["unit"] == "ssh.service"


def test_a_boundary_is_named_as_the_reason(fleet):
    assert wrong(fleet, Flow("dev1", NGINX, "db1", 5432, False)) == []
    one = until("dev1 told of it", lambda: denials(fleet, host="dev1", peer_host="db1", service="tcp/5432"), 5)[-1]
    assert (one["reason"], one["rule"]) == ("boundary", "dev-stays-out-of-prod")


def test_a_suggested_rule_allows_the_connection(fleet, policy):
    flow = Flow("web1", "cron.service", "api1", 8080, False)
    assert wrong(fleet, flow) == []

    def told():
        return denials(fleet, host="web1", direction="egress", peer_host="api1", service="tcp/8080", workload="host")

    suggestion = until("web1 told of it", told, 5)[-1]["suggestion"]
    (policy.directory / "suggested.yaml").write_text(suggestion.replace("CHANGE-ME", "team-shop"))
    fleet.push(policy.directory)
    assert wrong(fleet, Flow("web1", "cron.service", "api1", 8080, True)) == []
