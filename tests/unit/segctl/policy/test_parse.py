from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from ipaddress import ip_network
from itertools import permutations

import pytest
from segctl.model.findings import Position
from segctl.model.policy import Mode, PortRange, Process, ProcessKind, Selector, Tags
from segctl.policy.codes import CODES
from segctl.policy.parse import MAX_FILES, parse_policy
from segctl.policy.source import SourceFile
from segctl.policy.syntax.log import MAX_FINDINGS

from tests.policies import VOCABULARY, after_vocabulary, example_sources, findings, policy, said, source

RULE = "owner: o, why: w}"


def test_a_rule_says_everything_it_was_given() -> None:
    rule = policy(
        """\
rules:
  - name: web-to-db
    from: {workload: shop-web, env: prod}
    to: {role: db}
    within: [app, env]
    allow: [postgres, tcp/80-90, icmp/echo-request]
    owner: team-shop
    why: >
      checkout reads
      and writes
    review: 2027-05-01
    expires: 2028-05-01
"""
    ).rules[0]
    assert rule.source == Selector(Tags.of({"env": "prod"}), "shop-web")
    assert rule.destination == Selector(Tags.of({"role": "db"}))
    assert rule.allow == ("postgres", "tcp/80-90", "icmp/echo-request")
    assert [str(p) for p in rule.ports] == ["icmp/8", "icmpv6/128", "tcp/80-90", "tcp/5432"]
    assert (rule.within, rule.owner, rule.why) == (("app", "env"), "team-shop", "checkout reads and writes")
    assert (rule.review, rule.until) == (date(2027, 5, 1), datetime(2028, 5, 2, tzinfo=UTC))
    assert rule.where == Position("p0.yaml", 3, 5)
    assert rule.source.where == Position("p0.yaml", 4, 11)


def test_the_vocabulary_is_read_as_declared() -> None:
    p = policy()
    assert p.tags["role"] == ("api", "bastion", "db", "web")
    assert p.services["ssh"].ports == (PortRange("tcp", 22, 22),)
    assert p.peers["office"].networks == (ip_network("203.0.113.0/24"), ip_network("2001:db8:40::/48"))
    db = p.workloads["shop-db"]
    assert (db.on, db.process) == (
        Tags.of({"app": "shop", "role": "db"}),
        Process(ProcessKind.UNIT, "postgresql@*.service"),
    )
    assert db.where == Position("a.yaml", 13, 3)


def test_reserved_names_can_be_used() -> None:
    rule = policy(f"rules:\n  - {{name: r, from: {{peer: any}}, to: {{workload: host}}, allow: [any], {RULE}").rules[0]
    assert (rule.source.peer, rule.destination.workload, rule.allow) == ("any", "host", ("any",))
    assert PortRange("tcp", 0, 65535) in rule.ports


def test_modes_boundaries_and_tests() -> None:
    p = policy(
        """\
modes: [{select: {env: prod}, mode: enforce}, {select: {}, mode: observe}]
boundaries: [{name: b, from: {env: dev}, to: {peer: office}}]
tests:
  - {from: {env: dev}, to: {env: prod}, deny: [ssh, tcp/80]}
  - {from: {peer: office}, to: {env: prod}, allow: [ssh]}
"""
    )
    assert [m.mode for m in p.modes] == [Mode.ENFORCE, Mode.OBSERVE]
    assert p.boundaries[0].destination.peer == "office"
    assert [(t.allow, t.services) for t in p.tests] == [(False, ("ssh", "tcp/80")), (True, ("ssh",))]


def test_essentials_of_several_files_are_joined() -> None:
    e = policy(
        "essentials: {dns: [10.0.0.53], rescue: {from: [10.0.0.1]}}",
        'essentials: {dns: ["fd00::53"], ntp: [10.0.0.123], rescue: {from: [10.0.0.2], allow: [ssh, tcp/2222]}}',
    ).essentials
    assert [str(n) for n in e.dns] == ["10.0.0.53/32", "fd00::53/128"]
    assert [str(n) for n in e.rescue] == ["10.0.0.1/32", "10.0.0.2/32"]
    assert [str(p) for p in e.rescue_ports] == ["tcp/22", "tcp/2222"]
    assert [str(p) for p in policy("essentials: {rescue: {from: [10.0.0.1]}}").essentials.rescue_ports] == ["tcp/22"]


def test_files_share_one_vocabulary_whatever_their_order() -> None:
    files = example_sources()
    results = [parse_policy(order) for order in permutations(files)]
    assert len(files) == 3
    assert all(r.policy is not None and r == results[0] for r in results)


def test_tag_values_of_several_files_are_joined() -> None:
    assert policy("tags: {role: [cache], loc: [fra]}").tags["role"] == ("api", "bastion", "cache", "db", "web")


def test_yaml_words_stay_words() -> None:
    p = policy("tags: {flag: [no, on, 1, 1e3, null]}\nmodes: [{select: {flag: no}, mode: test}]")
    assert p.tags["flag"] == ("1", "1e3", "no", "null", "on")
    assert p.modes[0].select.tags.get("flag") == "no"


ONE_MISTAKE = {
    "tags: {role: [web, web]}": "1:20 duplicate-value",
    "tags: {Role: [web]}": "1:8 bad-name",
    "tags: {workload: [web]}": "1:8 reserved-name",
    "tags: {loc: [a b]}": "1:14 bad-name",
    "tags: {loc: []}": "1:13 empty-list",
    "tags: {loc: fra}": "1:13 wrong-type",
    "services: {ssh: [tcp/22]}": "1:12 duplicate-name",
    "services: {any: [tcp/22]}": "1:12 reserved-name",
    "services: {x: [tcp/0]}": "1:16 bad-service",
    "services: {x: [ssh]}": "1:16 bad-service",
    "peers: {any: [10.0.0.1]}": "1:9 reserved-name",
    "peers: {x: [10.0.0.1/8]}": "1:13 host-bits",
    "peers: {x: [db.example.com]}": "1:13 dns-name",
    "peers: {x: [10.0.0.300]}": "1:13 bad-network",
    "workloads: {host: {on: {}, process: {user: a}}}": "1:13 reserved-name",
    "workloads: {x: {on: {}}}": "1:16 missing-key",
    "workloads: {x: {on: {}, process: {}}}": "1:34 bad-process",
    "workloads: {x: {on: {}, process: {user: a, unit: a.service}}}": "1:34 bad-process",
    "workloads: {x: {on: {}, process: {unti: a.service}}}": ["1:34 bad-process", "1:35 unknown-key"],
    "workloads: {x: {on: {}, process: {unit: nginx}}}": "1:41 bad-process",
    "workloads: {x: {on: {workload: shop-db}, process: {user: a}}}": "1:22 bad-selector",
    "workloads: {x: {on: {env: prod}, tags: {env: dev}, process: {user: a}}}": "1:13 tag-conflict",
    "modes: [{select: {env: prod}, mode: enforced}]": "1:37 unknown-mode",
    "modes: [{select: {env: prod}, mode: enforce, outgoing: deny}]": "1:56 unknown-answer",
    "modes: [{select: {peer: office}, mode: enforce}]": "1:18 bad-mode",
    "modes: {select: {}, mode: test}": "1:8 wrong-type",
    "modes: [{select: {env: prd}, mode: test}]": "1:24 unknown-value",
    "modes: [{select: {evn: prod}, mode: test}]": "1:19 unknown-tag",
    "modes: [{select: {workload: shop-bd}, mode: test}]": "1:29 unknown-workload",
    "modes: [{select: {process: {unit: a.service}}, mode: test}]": "1:19 bad-selector",
    "boundaries: [{name: b, from: {}, to: {peer: offce}}]": "1:45 unknown-peer",
    "boundaries: [{name: b, from: {}, to: {peer: office, env: dev}}]": "1:39 bad-selector",
    "boundaries: [{name: b, from: {peer: any}, to: {peer: any}}]": "1:14 peer-to-peer",
    "boundaries: [{name: b, from: {}, to: {}}, {name: b, from: {}, to: {}}]": "1:50 duplicate-name",
    "tests: [{from: {}, to: {}}]": "1:9 bad-test",
    "tests: [{from: {}, to: {}, allow: [ssh], deny: [ssh]}]": "1:9 bad-test",
    "tests: [{from: {}, to: {}, allow: [shh]}]": "1:36 unknown-service",
    "rulez: []": "1:1 unknown-key",
    f"rules: [{{name: r, from: {{}}, to: {{}}, allow: [], {RULE}]": "1:44 empty-list",
    f"rules: [{{name: r, from: {{}}, to: {{}}, allow: ssh, {RULE}]": "1:44 wrong-type",
    "rules: [{name: r, from: {}, to: {}, allow: [ssh], why: w}]": "1:9 missing-key",
    "rules: [{name: r, from: {}, to: {}, allow: [ssh], owner: o}]": "1:9 missing-key",
    "rules: [{name: r, from: {}, to: {}, allow: [ssh], owner: '', why: w}]": "1:58 bad-text",
    f"rules: [{{name: r, from: {{}}, to: {{}}, allow: [ssh], review: 1.5.27, {RULE}]": "1:59 bad-date",
    f"rules: [{{name: r, from: {{}}, to: {{}}, allow: [ssh], within: [evn], {RULE}]": "1:60 unknown-tag",
    f"rules: [{{name: r, from: {{peer: any}}, to: {{}}, allow: [ssh], within: [env], {RULE}]": "1:68 bad-within",
    f"rules: [{{name: r, from: {{peer: any}}, to: {{peer: office}}, allow: [ssh], {RULE}]": "1:9 peer-to-peer",
    f"rules: [{{from: {{}}, to: {{}}, allow: [ssh], {RULE}]": "1:9 missing-key",
    "essentials: {dsn: [10.0.0.1]}": "1:14 unknown-key",
    "essentials: {rescue: {allow: [ssh]}}": "1:22 missing-key",
    "essentials: {rescue: nobody}": "1:22 wrong-type",
    "essentials: {dns: [ns.example.com]}": "1:20 dns-name",
}


@pytest.mark.parametrize(("text", "expected"), ONE_MISTAKE.items(), ids=range(len(ONE_MISTAKE)))
def test_one_mistake_is_one_finding_at_its_place(text: str, expected: str | list[str]) -> None:
    assert said(text) == ([expected] if isinstance(expected, str) else expected)


@pytest.mark.parametrize("text", ONE_MISTAKE, ids=range(len(ONE_MISTAKE)))
def test_every_finding_has_a_mend_and_a_known_code(text: str) -> None:
    for finding in parse_policy(after_vocabulary([text])).findings:
        assert finding.hint
        assert finding.code in CODES


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("ruls: []", "rules"),
        ("modes: [{select: {env: prd}, mode: test}]", "prod"),
        ("modes: [{select: {rol: web}, mode: test}]", "role"),
        ("modes: [{select: {workload: shop-bd}, mode: test}]", "shop-db"),
        ("modes: [{select: {}, mode: enforced}]", "enforce"),
        ("boundaries: [{name: b, from: {}, to: {peer: offce}}]", "office"),
        ("tests: [{from: {}, to: {}, allow: [postgers]}]", "postgres"),
    ],
)
def test_did_you_mean(text: str, mend: str) -> None:
    assert [f.hint for f in findings(VOCABULARY + text)] == [f"did you mean {mend}?"]


def test_one_bad_rule_does_not_hide_the_others() -> None:
    text = """\
rules:
  - {name: BAD, from: {env: prd}, to: {}, allow: [shh], owner: o, why: w}
  - just words
  - {name: r2, from: {}, to: {workload: nope}, allow: [tcp/99999], why: w, bogus: 1}
modes: [{select: {}, mode: off}]
"""
    assert said(text) == [
        "2:12 bad-name",
        "2:29 unknown-value",
        "2:51 unknown-service",
        "3:5 wrong-type",
        "4:5 missing-key",
        "4:41 unknown-workload",
        "4:56 bad-service",
        "4:76 unknown-key",
        "5:28 unknown-mode",
    ]


def test_a_broken_declaration_is_reported_once_and_not_at_its_uses() -> None:
    text = f"""\
services: {{web: [tcp/99999]}}
workloads: {{w: {{on: {{}}, process: {{unit: x}}}}}}
peers: {{p: [nope.example]}}
rules: [{{name: r, from: {{peer: p}}, to: {{workload: w}}, allow: [web], {RULE}]
"""
    assert [s.split()[1] for s in said(text)] == ["bad-service", "bad-process", "dns-name"]


def test_a_name_declared_in_two_files_names_both_places() -> None:
    rule = f"version: 1\nrules:\n  - {{name: r, from: {{}}, to: {{}}, allow: [tcp/1], {RULE}\n"
    (finding,) = findings(rule, rule)
    assert finding.code == "duplicate-name"
    assert finding.position == Position("p1.yaml", 3, 12)
    assert "first at p0.yaml:3:12" in finding.message


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("tags: {}\n", "missing-key"),
        ("version: 2\n", "version"),
        ("version: [1]\n", "wrong-type"),
        ("- a\n", "wrong-type"),
    ],
)
def test_each_file_needs_its_version(text: str, code: str) -> None:
    assert [f.code for f in findings("version: 1\n", text)] == [code]


def test_no_files_too_many_files_and_bad_names() -> None:
    assert [f.code for f in parse_policy([]).findings] == ["no-files"]
    many = [source("version: 1\n", f"{i}.yaml") for i in range(MAX_FILES + 1)]
    assert [f.code for f in parse_policy(many).findings] == ["too-many-files"]
    assert parse_policy(many[1:]).policy is not None
    twice = [source("version: 1\n"), source("version: 1\n")]
    assert [f.code for f in parse_policy(twice).findings] == ["file-name"]
    assert [f.code for f in parse_policy([source("version: 1\n", "a\x1b[31m")]).findings] == ["file-name"]


def test_findings_are_bounded_and_counted() -> None:
    text = "version: 1\nmodes:\n" + "  - {select: {nope: x}, mode: test}\n" * (MAX_FINDINGS + 5)
    found = findings(text)
    assert len(found) == MAX_FINDINGS + 1
    assert found[-1].code == "too-many-findings"
    assert found[-1].message.startswith("5 more")


def test_the_policy_does_not_depend_on_where_things_stand() -> None:
    """Positions take no part in equality, so a reformatted policy is the same policy."""
    (file,) = [source(VOCABULARY)]
    moved = replace(file, content=b"# a comment\n\n" + file.content)
    assert parse_policy([file]).policy == parse_policy([moved]).policy


def test_messages_never_carry_what_a_terminal_obeys() -> None:
    text = 'version: 1\ntags: {"\\e[31m\\u202e": [a]}\nmodes: [{select: {"\\ekey": "\\a"}, mode: "\\0"}]\n'
    found = findings(text)
    assert found
    assert all(str(f).isprintable() for f in found)


def test_bytes_that_are_no_text() -> None:
    result = parse_policy([SourceFile("p.yaml", b"version: 1\ntags: {a: [\xc3]}\n")])
    assert [(f.code, str(f.position)) for f in result.findings] == [("not-utf8", "p.yaml:2:12")]
    assert "offset 22" in result.findings[0].message


@pytest.mark.parametrize(
    "broken", ["tags: [\n", "\xff", "- a\n", "version: 1\ntags: a\nservices: a\npeers: a\nworkloads: a\n"]
)
def test_an_unreadable_vocabulary_is_not_reported_at_every_use(broken: str) -> None:
    use = f"rules: [{{name: r, from: {{role: web}}, to: {{workload: w}}, allow: [ssh], within: [env], {RULE}]\n"
    files = [SourceFile("a.yaml", broken.encode("latin-1")), source("version: 1\n" + use)]
    found = parse_policy(files).findings
    assert found
    assert {f.position.file for f in found} == {"a.yaml"}


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("peers: {a: [::1]}", "quote an IPv6"),
        ("peers: {a: [fd77::]}", "quote an IPv6"),
        ("workloads: {w: {on: {}, process: {unit: *.service}}}", "begins with *"),
        ("tags:\n\ta: [b]", "indent with spaces"),
    ],
)
def test_mends_of_yaml_itself(text: str, mend: str) -> None:
    (finding,) = findings("version: 1\n" + text)
    assert (finding.code, mend in finding.hint) == ("yaml-syntax", True), finding
