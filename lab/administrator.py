"""What the administrator of a lab's fleet does: `segctl` on the controller's host, its answers as values."""

from __future__ import annotations

import json
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lab.instance import LabError
from lab.topology import Topology
from lab.wait import until


class Host(Protocol):
    """Where commands run: a host of either lab."""

    def run(
        self,
        command: Sequence[str],
        unit: str = "",
        user: str = "root",
        stdin: str = "",
        seconds: float = 60.0,
        environment: Mapping[str, str] | None = None,
        here: Path | None = None,
    ) -> subprocess.CompletedProcess[str]: ...


class Administrator(ABC):
    """A fleet with one administrator, however `segctl` is run there."""

    @property
    @abstractmethod
    def topology(self) -> Topology: ...

    @abstractmethod
    def segctl(self, *arguments: str, stdin: str = "", seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run `segctl` as the administrator, on the controller's host."""

    def segctl_checked(
        self, *arguments: str, stdin: str = "", seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """The same; raises LabError with everything it said unless it ends with 0."""
        done = self.segctl(*arguments, stdin=stdin, seconds=seconds)
        if done.returncode != 0:
            said = f"{done.stdout}{done.stderr}".strip()
            raise LabError(f"segctl {' '.join(arguments)}: exit code {done.returncode}\n{said}")
        return done

    def document(self, *arguments: str) -> Any:  # noqa: ANN401 - whatever JSON the command documents
        """The JSON document of a command, whatever its exit code. Raises LabError when it prints none."""
        done = self.segctl(*arguments, "--json")
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            raise LabError(f"segctl {' '.join(arguments)} --json: {done.stdout}{done.stderr}") from error

    def records(self, *arguments: str) -> list[dict[str, Any]]:
        """The JSON objects of a command that prints one a line."""
        done = self.segctl_checked(*arguments, "--json")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def token(self, host: str, *options: str) -> str:
        """A join token for a host of the topology, with the host's tags and name."""
        tags = [option for key, value in self.topology.host(host).tags for option in ("--tag", f"{key}={value}")]
        return self.segctl_checked("token", "create", "--host", host, *tags, *options).stdout.strip().splitlines()[-1]

    def push(self, policy: Path, *options: str) -> list[dict[str, Any]]:
        """Push a policy directory until it is confirmed, without a time of watching unless `options` say so. Raises
        LabError when it is not, or when a host has not proved it."""
        return self.records("push", str(policy), "--yes", "--watch", "0", *options)

    def host_states(self) -> dict[str, str]:
        """The state of every enrolled host: {"web1": "in-sync", ...}."""
        return {host["name"]: host["state"] for host in self.document("status")["hosts"]}

    def await_in_sync(self, seconds: float = 30.0) -> None:
        """Wait until every managed host is connected and holds the active generation."""
        wanted = {host.name: "in-sync" for host in self.topology.managed}

        def reached() -> bool:
            return self.host_states() == wanted

        until("every host is in sync", reached, seconds, every=0.1)


class HostAdministrator(Administrator):
    """One who works on a host that runs commands with an environment and in a directory."""

    segctl_path: str
    """The command, as the controller's host sees it."""

    @property
    @abstractmethod
    def control_host(self) -> Host:
        """Where the administrator works."""

    @property
    @abstractmethod
    def admin_directory(self) -> Path:
        """The administrator's client configuration there: SEGCTL_CONFIG of everything that may push."""

    @property
    def here(self) -> Path | None:
        """The administrator's directory there."""
        return None

    def segctl(self, *arguments: str, stdin: str = "", seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        environment = {"SEGCTL_CONFIG": str(self.admin_directory)}
        command = [self.segctl_path, *arguments]
        return self.control_host.run(command, stdin=stdin, seconds=seconds, environment=environment, here=self.here)
