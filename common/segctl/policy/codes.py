"""The codes of findings: stable words that people filter by. docs/policy.md documents every one."""

from __future__ import annotations

from types import MappingProxyType

CODES = MappingProxyType(
    {
        # Files and YAML.
        "no-files": "there is no policy file",
        "too-many-files": "more files than one policy may have",
        "file-name": "a file name that cannot be shown, or is used twice",
        "file-too-large": "a file above the size limit",
        "file-empty": "a file that says nothing",
        "not-utf8": "a file that is not UTF-8",
        "control-character": "a character that does not show, or that hides what the file says",
        "yaml-syntax": "not YAML",
        "yaml-feature": "an anchor, alias, tag or merge key",
        "yaml-documents": "several documents in one file",
        "yaml-depth": "nested too deeply",
        "duplicate-key": "a key twice in one mapping",
        "too-many-findings": "more errors than are shown",
        # Form.
        "wrong-type": "a list, mapping or text where another is needed",
        "unknown-key": "a key that the language does not have",
        "missing-key": "a key that must be there",
        "version": "a version of the language that is not supported",
        "bad-name": "a name that breaks the rules for names",
        "reserved-name": "a name that the language keeps for itself",
        "duplicate-name": "a name that is declared twice",
        "duplicate-value": "a value twice in one list",
        "empty-list": "a list that must say something",
        "bad-text": "an owner or reason that is empty, too long or unprintable",
        "bad-date": "not a date",
        "bad-service": "not a protocol and port",
        "bad-network": "not an address or network",
        "host-bits": "a network with host bits set",
        "dns-name": "a DNS name where an address is needed",
        "bad-process": "a process pattern that cannot match",
        "tag-conflict": "a workload whose own tags contradict its `on`",
        # Meaning of single statements.
        "unknown-tag": "a tag key that is not declared",
        "unknown-value": "a tag value that is not declared",
        "unknown-service": "a service that is not declared",
        "unknown-peer": "a peer that is not declared",
        "unknown-workload": "a workload that is not declared",
        "unknown-mode": "not a mode",
        "bad-selector": "a selector that mixes what cannot be mixed",
        "bad-within": "a `within` that cannot hold",
        "bad-mode": "a mode for something that is not a workload",
        "peer-to-peer": "both ends are peers",
        "bad-test": "a test that does not say one thing",
        # Findings of the check.
        "test-failed": "a policy test that does not hold",
        "lock-out": "nobody could log in to what enforces",
        "no-rescue": "no rescue list while something enforces",
        "rescue-no-tcp": "a rescue list that lets nobody log in",
        "rescue-held": "a rescue address that is an enforcing host itself",
        "no-dns": "no DNS server while something enforces",
        "selector-empty": "a selector that matches nothing",
        "rule-never": "a rule that can never permit anything",
        "rule-duplicate": "two rules that say the same",
        "rule-shadowed": "a rule that another covers wholly",
        "rule-cut": "a rule that a boundary denies wholly",
        "rule-narrowed": "a rule that a boundary denies in part",
        "rule-everything": "a rule that allows everything",
        "icmp-to-workload": "a rule that allows ICMP to a named workload, which never receives it",
        "rule-expired": "a rule past its last day",
        "rule-expires": "a rule that expires soon",
        "review-due": "a rule whose review is due",
        "unused-workload": "a workload that nothing uses",
        "unused-service": "a service that nothing uses",
        "unused-peer": "a peer that nothing uses",
        "workload-overlap": "two workloads that may claim one process",
        "mode-missing": "hosts without a mode",
        "peer-covers-hosts": "a peer network with enrolled hosts inside",
    }
)
"""What each code stands for, in a few words."""
