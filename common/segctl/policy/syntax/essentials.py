"""The section `essentials`: what always passes beside what the agent passes by itself."""

from __future__ import annotations

from collections.abc import Iterable

from segctl.model.findings import NOWHERE
from segctl.model.policy import Essentials, Network, PortRange
from segctl.policy.syntax import grammar
from segctl.policy.syntax.fields import read_fields
from segctl.policy.syntax.log import FindingLog
from segctl.policy.syntax.vocabulary import Vocabulary, read_networks
from segctl.policy.syntax.yamltree import Node, Scalar

NO_RESCUE = "none"


def read_essentials(nodes: Iterable[Node], vocabulary: Vocabulary, log: FindingLog) -> Essentials:
    """The sections of all files as one, their lists joined. Rescue without `allow` means ssh, tcp/22. `rescue: none`
    says that there is no rescue list on purpose."""
    dns: list[Network] = []
    ntp: list[Network] = []
    rescue: list[Network] = []
    ports: list[PortRange] = []
    where, waived = NOWHERE, NOWHERE
    for node in nodes:
        where = node.where if where is NOWHERE else where
        fields = read_fields(node, "essentials", ("dns", "ntp", "rescue"), (), log) or {}
        for key, into in (("dns", dns), ("ntp", ntp)):
            if key in fields:
                into.extend(read_networks(fields[key], key, log, may_be_empty=True))
        word = fields.get("rescue")
        if isinstance(word, Scalar) and word.text == NO_RESCUE:
            waived = word.where
        elif word is not None:
            parts = read_fields(word, "rescue", ("from", "allow"), ("from",), log) or {}
            if "from" in parts:
                rescue.extend(read_networks(parts["from"], "from of rescue", log))
            if "allow" in parts:
                ports.extend(vocabulary.read_allowed(parts["allow"], "allow of rescue", log)[1])
    if rescue and waived is not NOWHERE:
        message = "rescue: none stands beside a rescue list"
        log.error(waived, "rescue-none", message, "remove the one that is not meant")
    return Essentials(
        grammar.sorted_networks(dns),
        grammar.sorted_networks(ntp),
        grammar.sorted_networks(rescue),
        grammar.sorted_ports(ports) or Essentials().rescue_ports,
        waived is not NOWHERE,
        where,
    )
