"""Machines that nobody has touched become a fleet: by the Ansible roles over SSH, and by the cloud-init snippet."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
import yaml

from bench.pair import HERE
from lab.host import REPOSITORY
from lab.nspawn.fleet import AGENT, NspawnFleet, put_directory
from lab.nspawn.lab import NspawnLab
from lab.packages import AGENT as PACKAGE
from lab.packages import PLACE, Packages, build_packages, put
from lab.topology import load_topology

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ANSIBLE = "ansible-core>=2.17,<2.20"
CLOUD_INIT = ("jinja2", "configobj", "oauthlib", "jsonpatch", "jsonschema", "requests", "pyyaml", "pyserial")
"""What Debian's cloud-init imports."""
SNIPPET = REPOSITORY / "deploy/cloud-init/agent.yaml"
FLEET = """
segctl_controller:
  hosts:
    ctl:
      ansible_connection: local
      segctl_controller_packages: [{controller}, {cli}]
      segctl_controller_names: [ctl, 10.77.0.10]
segctl_servers:
  hosts:
    server:
      ansible_become: false
      segctl_agent_package: {agent}
      segctl_agent_tags: {{app: shop, role: web}}
"""


class Bare(NspawnFleet):
    """Machines without segctl: entering boots them and nothing else."""

    def __init__(self) -> None:
        super().__init__(NspawnLab(load_topology(HERE / "pair.json"), installed=False))

    def __enter__(self) -> Self:
        self.lab.__enter__()
        for machine in self.machines.values():
            machine.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n", 0o755)  # images of containers forbid it
        return self


@pytest.fixture(scope="module")
def packages() -> Packages:
    return build_packages()


@pytest.fixture(scope="module")
def bare() -> Iterator[Bare]:
    with Bare() as fleet:
        yield fleet


def from_pypi(folder: Path, *names: str) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--target",
        str(folder),
    ]
    subprocess.run([*command, *names], check=True)
    return folder


def test_ansible_makes_a_controller_and_enrols_a_server_once(bare: Bare, packages: Packages, tmp_path: Path) -> None:
    files = put(bare.control, packages, [PACKAGE, "segctl-controller", "segctl"])
    put_directory(bare.control, from_pypi(tmp_path / "ansible", ANSIBLE), Path("/opt/ansible"))
    put_directory(bare.control, REPOSITORY / "deploy/ansible", Path("/root/ansible"))
    inventory = FLEET.format(agent=files[0], controller=files[1], cli=files[2])
    bare.control.write("/root/ansible/inventory.yml", inventory)

    def play() -> str:
        command = ["/usr/bin/python3", "-m", "ansible", "playbook", "-v", "-i", "inventory.yml", "site.yml"]
        environment = {"PYTHONPATH": "/opt/ansible", "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3"}
        place = Path("/root/ansible")
        done = bare.control.run(command, environment=environment, here=place, seconds=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = play()
    assert bare.host_states() == {"server": "in-sync"}
    assert bare.document("host", "show", "server")["tags"] == {"app": "shop", "role": "web"}
    assert "the output has been hidden" in said  # no_log: the join token is in no output
    assert bare.machines["server"].show(AGENT, "UnitFileState") == "enabled"
    again = play()
    assert again.count("changed=0") == 2, again


def test_a_server_joins_by_cloud_init_as_it_is_made(bare: Bare, packages: Packages) -> None:
    """After the fleet above is there. cloud-init's part is done here as it documents it: files, then commands."""
    machine = bare.machines["client"]
    token = bare.segctl_checked("token", "create", "--host", "client", "--tag", "role=web").stdout.split()[-1]
    text = SNIPPET.read_text().replace("PUT-THE-JOIN-TOKEN-HERE", token)
    data = yaml.safe_load(text.replace("https://packages.example.net", f"file://{PLACE}"))
    machine.copy_in(packages[PACKAGE], f"{PLACE}/segctl-agent.deb")
    for file in data["write_files"]:
        machine.write(file["path"], file["content"], int(file["permissions"], 8), file["owner"])
    script = "\n".join(shlex.join(command) for command in data["runcmd"])
    done = machine.run(["sh", "-c", script], seconds=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert token not in done.stdout + done.stderr
    assert bare.host_states() == {"server": "in-sync", "client": "in-sync"}
    assert machine.run(["ls", "/run/segctl"]).returncode != 0


def test_the_cloud_init_snippet_is_valid(tmp_path: Path) -> None:
    """By Debian's own cloud-init, unpacked and not installed."""
    subprocess.run(["apt-get", "download", "-qq", "cloud-init"], cwd=tmp_path, check=True, capture_output=True)
    (package,) = tmp_path.glob("*.deb")
    subprocess.run(["dpkg", "-x", str(package), str(tmp_path / "root")], check=True)
    imports = from_pypi(tmp_path / "imports", *CLOUD_INIT)
    path = f"{tmp_path}/root/usr/lib/python3/dist-packages:{imports}"

    def schema(file: Path) -> subprocess.CompletedProcess[str]:
        command = ["/usr/bin/python3", "-m", "cloudinit.cmd.main", "schema", "--config-file", str(file)]
        return subprocess.run(command, env={"PYTHONPATH": path}, text=True, capture_output=True, check=False)

    assert "Valid cloud-config" in schema(SNIPPET).stdout
    broken = tmp_path / "broken.yaml"
    broken.write_text("#cloud-config\nruncmd: 5\n")
    assert schema(broken).returncode != 0
