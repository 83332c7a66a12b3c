"""Looks at a policy before it may become a generation: parse, check against the fleet, run its tests, compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from segctl.errors import PolicyError
from segctl.model.findings import Finding, Severity
from segctl.model.hostpolicy import HostPolicy
from segctl.model.inventory import Address, Inventory
from segctl.model.policy import Policy
from segctl.policy.check import check_policy
from segctl.policy.compile import Compiler
from segctl.policy.diff import PolicyDiff, diff_policies
from segctl.policy.digest import policy_digest
from segctl.policy.parse import parse_policy
from segctl.policy.satisfy import run_tests
from segctl.policy.source import SourceFile

from segctl_controller.errors import LimitError
from segctl_controller.trial import Active

LARGEST_SOURCE = 8 * 1024 * 1024
MOST_FILES = 1000


@dataclass(frozen=True, slots=True)
class Review:
    """`policy` is None when it does not parse. `findings` hold the broken tests too."""

    policy: Policy | None
    findings: tuple[Finding, ...]

    @property
    def tests(self) -> int:
        return len(self.policy.tests) if self.policy else 0

    @property
    def refused(self) -> bool:
        return self.policy is None or any(f.severity is Severity.ERROR for f in self.findings)

    def accepted(self) -> Policy:
        """The policy, or PolicyError with every finding when one of them is an error."""
        if self.policy is None or self.refused:
            raise PolicyError(tuple(sorted(self.findings, key=lambda f: (f.severity is not Severity.ERROR, f))))
        return self.policy


def review(
    files: Sequence[SourceFile], inventory: Inventory | None, now: datetime, controller: Sequence[Address]
) -> Review:
    """Raises LimitError for sources over the bounds."""
    size = sum(len(f.content) + len(f.name) for f in files)
    if size > LARGEST_SOURCE or len(files) > MOST_FILES:
        raise LimitError(
            f"the policy has {len(files)} files and {size} bytes; at most {MOST_FILES} files and {LARGEST_SOURCE} "
            "bytes are taken; use networks instead of lists of addresses, or tags instead of hosts"
        )
    parsed = parse_policy(files)
    if parsed.policy is None:
        return Review(None, parsed.findings)
    findings = (
        *parsed.findings,
        *check_policy(parsed.policy, inventory, now, controller),
        *run_tests(parsed.policy, now),
    )
    return Review(parsed.policy, tuple(dict.fromkeys(findings)))


@dataclass(frozen=True, slots=True)
class Difference:
    """What a push would change: tuples and modes, and the host policies, here without generation and digest."""

    digest: str
    diff: PolicyDiff
    drafts: Mapping[str, HostPolicy]

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(sorted(self.drafts))


def compare(active: Active, policy: Policy, inventory: Inventory, now: datetime) -> Difference:
    before, after = Compiler(active.policy, inventory, now), Compiler(policy, inventory, now)
    # The same number and digest on both sides: only what is enforced counts as a change.
    both = ((name, before.host_policy(name, 0, ""), after.host_policy(name, 0, "")) for name in inventory.hosts)
    drafts = {name: new for name, old, new in both if old != new}
    return Difference(policy_digest(policy), diff_policies(active.policy, policy, inventory, now), drafts)
