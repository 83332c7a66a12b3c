"""Connections that are tried without end from one machine while something happens to another."""

import json
import subprocess

from lab.nspawn.fleet import PROGRAM


class Watching:
    """Use as a context manager: it probes from entry to exit. TARGET is "open|closed,4|6,ADDRESS,PORT"; `wrong` then
    holds, in words, every connection that did not end as it must, and `probes` how many were tried of each target."""

    def __init__(self, machine, *targets):
        self.machine, self.targets = machine, targets
        self.probes, self.wrong = {}, []

    def __enter__(self):
        self.process = self.machine.popen([*PROGRAM, "watch", *self.targets], stdin=subprocess.PIPE)
        assert self.process.stdout.readline() == "watching\n"
        return self

    def __exit__(self, *_):
        said, _ = self.process.communicate(timeout=30)
        seen = json.loads(said.splitlines()[-1])
        self.probes = {target: one["probes"] for target, one in seen.items()}
        self.wrong = [words for one in seen.values() for words in one["wrong"]]
