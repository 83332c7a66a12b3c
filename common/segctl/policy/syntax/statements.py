"""What a policy says with its vocabulary: modes, boundaries, rules and tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from segctl.model.findings import Position
from segctl.model.policy import (
    ANY_PEER,
    HOST_WORKLOAD,
    Answer,
    Boundary,
    Mode,
    ModeRule,
    PolicyTest,
    Rule,
    Selector,
    Tags,
)
from segctl.policy.syntax import grammar
from segctl.policy.syntax.fields import read_fields, read_items, read_scalar, read_table, read_words
from segctl.policy.syntax.log import FindingLog, Problem
from segctl.policy.syntax.suggest import quoted
from segctl.policy.syntax.vocabulary import SELECTOR_KEYS, Declarations, Vocabulary
from segctl.policy.syntax.yamltree import Node, Scalar

_T = TypeVar("_T")

RULE_KEYS = ("name", "from", "to", "within", "allow", "owner", "why", "review", "expires")
MODE_KEYS = ("select", "mode", "outgoing", "incoming")
RULE_REQUIRED = ("name", "from", "to", "allow", "owner", "why")

_DECLARE_PEER = "declare it under peers, as NAME: [ADDRESS], and write"


def _is_network(text: str) -> bool:
    """An address or network, host bits or not."""
    network = grammar.read_network(text)
    return not isinstance(network, Problem) or network.code == "host-bits"


class StatementReader:
    """Reads statements against one vocabulary. Names of rules and boundaries are unique over all files."""

    def __init__(self, vocabulary: Vocabulary, log: FindingLog) -> None:
        self._vocabulary = vocabulary
        self._log = log
        self._rules = Declarations("rule")
        self._boundaries = Declarations("boundary")

    def modes(self, node: Node) -> Iterable[ModeRule]:
        for item in read_items(node, "modes", self._log, may_be_empty=True) or ():
            fields = read_fields(item, "an entry of modes", MODE_KEYS, MODE_KEYS[:2], self._log) or {}
            select = self._selector(fields.get("select"), "select")
            mode = self._mode(fields.get("mode"))
            if select is None or mode is None:
                continue
            if select.peer is not None:
                message = f"peer {select.peer} cannot have a mode: nothing of it is enrolled"
                self._log.error(select.where, "bad-mode", message, "select by tags or workload")
                continue
            outgoing, incoming = (self._answer(fields.get(key), key) for key in MODE_KEYS[2:])
            yield ModeRule(select, mode, item.where, outgoing=outgoing, incoming=incoming)

    def boundaries(self, node: Node) -> Iterable[Boundary]:
        keys = ("name", "from", "to")
        for item in read_items(node, "boundaries", self._log, may_be_empty=True) or ():
            fields = read_fields(item, "a boundary", keys, keys, self._log) or {}
            name = self._name(fields.get("name"), self._boundaries)
            ends = self._ends(fields, item.where)
            if name and ends:
                yield Boundary(name, *ends, item.where)

    def rules(self, node: Node) -> Iterable[Rule]:
        for item in read_items(node, "rules", self._log, may_be_empty=True) or ():
            rule = self._rule(item)
            if rule:
                yield rule

    def tests(self, node: Node) -> Iterable[PolicyTest]:
        for item in read_items(node, "tests", self._log, may_be_empty=True) or ():
            fields = read_fields(item, "a test", ("from", "to", "allow", "deny"), ("from", "to"), self._log)
            if fields is None:
                continue
            ends = self._ends(fields, item.where)
            services = {
                key: self._vocabulary.read_allowed(fields[key], f"{key} of a test", self._log)
                for key in ("allow", "deny")
                if key in fields
            }
            if len(services) != 1:
                message = "a test says either allow or deny, and this one says " + ("both" if services else "neither")
                self._log.error(item.where, "bad-test", message, "write two tests" if services else "add allow or deny")
                continue
            ((key, (words, ports)),) = services.items()
            if ends:
                yield PolicyTest(*ends, key == "allow", words, ports, item.where)

    def _rule(self, item: Node) -> Rule | None:
        fields = read_fields(item, "a rule", RULE_KEYS, RULE_REQUIRED, self._log)
        if fields is None:
            return None
        name = self._name(fields.get("name"), self._rules)
        what = f"rule {name}" if name else "a rule"
        ends = self._ends(fields, item.where)
        within = self._within(fields["within"], what, ends) if "within" in fields else ()
        words, ports = (
            self._vocabulary.read_allowed(fields["allow"], f"allow of {what}", self._log)
            if "allow" in fields
            else ((), ())
        )
        owner = self._text(fields.get("owner"), f"owner of {what}", grammar.MAX_OWNER)
        why = self._text(fields.get("why"), f"why of {what}", grammar.MAX_WHY)
        review = self._read(grammar.read_date, fields.get("review"), f"review of {what}")
        until = self._read(grammar.read_end, fields.get("expires"), f"expires of {what}")
        if not name or not ends:
            return None
        return Rule(name, *ends, words, ports, within, owner, why, review, until, item.where)

    def _selector(self, node: Node | None, what: str) -> Selector | None:
        table = read_table(node, what, self._log, self._selector_mend(node)) if node else None
        if table is None:
            return None
        fields = {key.text: (key, value) for key, value in table.entries}
        if "process" in fields:
            mend = "declare it under workloads and write workload: NAME"
            self._log.error(fields["process"][0].where, "bad-selector", "a selector names no process", mend)
        pairs: dict[str, str] = {}
        for key, value in table.entries:
            is_tag = key.text not in SELECTOR_KEYS
            pair = self._vocabulary.read_tag(key, value, self._log) if is_tag else None
            if pair:
                pairs[pair[0]] = pair[1]
        workload = self._reference(fields, self._vocabulary.workload_names, HOST_WORKLOAD)
        peer = self._reference(fields, self._vocabulary.peer_names, ANY_PEER)
        if "peer" in fields and len(fields) > 1:
            others = ", ".join(quoted(k) for k in fields if k != "peer")[:100]
            message = f"{what} combines peer with {others}: peers carry no tags and no workloads"
            self._log.error(fields["peer"][0].where, "bad-selector", message, "write peer: NAME alone")
            return None
        # An unknown workload or peer must not turn into a selector of everything: what follows would be nonsense.
        if ("workload" in fields and workload is None) or ("peer" in fields and peer is None):
            return None
        return Selector(Tags.of(pairs), workload, peer, table.where)

    def _selector_mend(self, node: Node) -> str:
        """For a selector that is one word: what it would be in braces."""
        general = "write {TAG: VALUE}, {workload: NAME} or {peer: NAME}"
        if not isinstance(node, Scalar) or not node.text:
            return general
        if _is_network(node.text):
            return f"{_DECLARE_PEER} {{peer: NAME}}"
        if node.text in ("any", "all", "*", "everything"):
            return "write {} for every workload of every host, or {peer: any} for every address outside"
        names = self._vocabulary
        for kind, known in (("workload", (*names.workloads, HOST_WORKLOAD)), ("peer", names.peers)):
            if node.text in known:
                return f"did you mean {{{kind}: {node.text}}}?"
        tags = [key for key, values in names.tags.items() if node.text in (values or ())]
        if tags:
            return f"did you mean {{{tags[0]}: {node.text}}}?"
        for kind, known in (("workload", (*names.workloads, HOST_WORKLOAD)), ("peer", names.peers)):
            near = self._log.mend(node.text, known)
            if near:
                return near.replace("did you mean ", f"did you mean {{{kind}: ").replace("?", "}?")
        return general

    def _reference(
        self, fields: Mapping[str, tuple[Scalar, Node]], declared: Declarations, reserved: str
    ) -> str | None:
        if declared.kind not in fields:
            return None
        name = read_scalar(fields[declared.kind][1], declared.kind, self._log)
        if name is None:
            return None
        if name.text != reserved and name.text not in declared.places:
            mend = (
                f"{_DECLARE_PEER} NAME"
                if declared.kind == "peer" and _is_network(name.text)
                else self._log.mend(name.text, (*declared.places, reserved), f"declare it under {declared.kind}s")
            )
            message = f"{declared.kind} {quoted(name.text)} is not declared"
            self._log.error(name.where, f"unknown-{declared.kind}", message, mend)
            return None
        return name.text

    def _ends(self, fields: Mapping[str, Node], where: Position) -> tuple[Selector, Selector] | None:
        source = self._selector(fields.get("from"), "from")
        destination = self._selector(fields.get("to"), "to")
        if source is None or destination is None:
            return None
        if source.peer is not None and destination.peer is not None:
            message = "both ends are peers: no enrolled host sees this traffic"
            self._log.error(where, "peer-to-peer", message, "one end must be tags or a workload")
            return None
        return source, destination

    def _name(self, node: Node | None, declared: Declarations) -> str | None:
        name = read_scalar(node, f"the name of a {declared.kind}", self._log) if node else None
        return name.text if name and declared.add(name, self._log) else None

    def _mode(self, node: Node | None) -> Mode | None:
        word = read_scalar(node, "mode", self._log) if node else None
        if word is None:
            return None
        known = [m.value for m in Mode]
        if word.text not in known:
            mend = self._log.mend(word.text, known, f"use one of {', '.join(known)}")
            self._log.error(word.where, "unknown-mode", f"{quoted(word.text)} is not a mode", mend)
            return None
        return Mode(word.text)

    def _answer(self, node: Node | None, key: str) -> Answer | None:
        word = read_scalar(node, key, self._log) if node else None
        if word is None:
            return None
        known = [a.value for a in Answer]
        if word.text not in known:
            mend = self._log.mend(word.text, known, f"use one of {', '.join(known)}")
            message = f"{quoted(word.text)} is not an answer to {key} packets"
            self._log.error(word.where, "unknown-answer", message, mend)
            return None
        return Answer(word.text)

    def _within(self, node: Node, what: str, ends: tuple[Selector, Selector] | None) -> tuple[str, ...]:
        words = read_words(node, f"within of {what}", self._log) or ()
        for word in words:
            if word.text not in self._vocabulary.tags:
                mend = self._log.mend(word.text, self._vocabulary.tags, "declare it under tags")
                self._log.error(word.where, "unknown-tag", f"tag {quoted(word.text)} is not declared", mend)
        if ends and any(end.peer is not None for end in ends):
            message = f"{what} has within, but one end is a peer: peers carry no tags"
            self._log.error(node.where, "bad-within", message, "remove within, and name the tags in the other end")
        return tuple(w.text for w in words)

    def _text(self, node: Node | None, what: str, limit: int) -> str:
        word = read_scalar(node, what, self._log) if node else None
        if word is None:
            return ""
        text = grammar.read_text(word.text, limit)
        if isinstance(text, Problem):
            self._log.error(word.where, text.code, f"{what}: {text.message}", text.hint)
            return ""
        return text

    def _read(self, read: Callable[[str], _T | Problem], node: Node | None, what: str) -> _T | None:
        word = read_scalar(node, what, self._log) if node else None
        if word is None:
            return None
        value = read(word.text)
        if isinstance(value, Problem):
            self._log.error(word.where, value.code, f"{what}: {value.message}", value.hint)
            return None
        return value
