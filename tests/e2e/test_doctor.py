"""Doctor and the pages for monitoring on a real fleet: the agent's channel over TLS, and the controller's machine."""

import json

from lab.fleet import AGENT_STATE, BIN, CONTROLLER_STATE

IGNORED = {"clock", "units", "journal"}
"""Of this machine, and not of the lab: its clock, and that systemd does not run it."""


def doctor(host, program, state, *options):
    done = host.run([str(BIN / program), "doctor", "--state", state, "--json"])
    body = json.loads(done.stdout)
    return done.returncode, [f for f in body["findings"] if f["check"] not in IGNORED], body["subject"]


def get(host, port, path):
    look = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}{path}').read().decode())"
    return host.check(["/usr/bin/python3", "-c", look])


def test_a_fleet_that_is_well(fleet):
    web1, control = fleet.lab.hosts["web1"], fleet.control
    code, found, subject = doctor(web1, "segctl-agent", AGENT_STATE)
    assert (code, subject) == (0, "host web1")
    assert [f for f in found if f["level"] != "ok"] == []
    reached = [f["text"] for f in found if f["check"] == "controller"]
    assert reached, found
    assert all("takes this host's certificate" in text for text in reached)
    code, found, _ = doctor(control, "segctl-controller", CONTROLLER_STATE)
    assert code == 0
    assert [f for f in found if f["level"] != "ok"] == []

    assert get(web1, 7446, "/readyz").strip() == "ok"
    assert get(control, 7445, "/readyz").strip() == "ok"
    told = get(web1, 7446, "/metrics")
    assert "segctl_agent_connected 1.0" in told
    for name in ("web1", "shop", "api", "10.77."):
        assert name not in told
    assert 'segctl_controller_hosts{state="in-sync"} 5.0' in get(control, 7445, "/metrics")


def test_status_on_one_look(fleet):
    shown = fleet.segctl("status")
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[0].startswith("All well: 5 hosts, and the kernel of each holds generation ")
