"""A small fleet as views: what the rendering tests draw."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from segctl.cli import views as v
from segctl.cli import views_access as va
from segctl.cli import views_impact as vi
from segctl.cli import views_life as vl
from segctl.cli import views_map as vm
from segctl.model.findings import Finding, Position, Severity

NOW = datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC)


def before(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


ERROR = Finding(
    Position("policy/shop.yaml", 3, 9),
    Severity.ERROR,
    "unknown-tag",
    "unknown value 'prd' of env",
    "did you mean prod?",
)
WARNING = Finding(Position("policy/shop.yaml", 7, 5), Severity.WARNING, "expired", "rule old expired on 2026-01-01")

GENERATION = v.Generation(8, "3f2a91c0b1d2e3f4", "alice", "checkout may reach the db", before(300), True, None)
OLDER = v.Generation(7, "aa00bb11cc22dd33", "bob", "", before(90000), False, 5)

ON_TRIAL = v.Generation(10, "cc00bb11cc22dd33", "bob", "enforce dev", before(4), False, None, state="trial")
UNDONE = v.Generation(
    9,
    "bb00bb11cc22dd33",
    "bob",
    "enforce dev",
    before(200),
    False,
    None,
    state="undone",
    why="db1 refused it: no memory",
)

SHOP_WEB, SHOP_DB = "shop-web [app=shop,env=prod]", "shop-db [app=shop,env=prod]"
PLAN = v.Plan(
    base_generation=7,
    digest="3f2a91c0b1d2e3f4",
    changes=(
        v.Change(
            True,
            SHOP_WEB,
            SHOP_DB,
            "postgres",
            "web-to-db",
            ("db1", "web1"),
        ),
        v.Change(
            True,
            SHOP_WEB,
            SHOP_DB,
            "tcp/6432",
            "web-to-db",
            ("db1", "web1"),
        ),
        v.Change(True, SHOP_WEB, SHOP_DB, "icmp/8", "web-to-db", ("db1", "web1")),
        v.Change(True, SHOP_WEB, SHOP_DB, "icmpv6/128", "web-to-db", ("db1", "web1")),
        v.Change(
            False,
            "peer office (203.0.113.0/24)",
            "host [role=web]",
            "ssh",
            "office-ssh",
            tuple(f"web{i}" for i in range(1, 6)),
        ),
    ),
    modes=(
        v.ModeChange("db1", "shop-db", "observe", "enforce"),
        v.ModeChange("db2", "shop-db", "observe", "enforce"),
        v.ModeChange("db1", "host", "enforce", "enforce, incoming reject"),
        v.ModeChange("dev1", "host", "-", "observe"),
        v.ModeChange("web1", "old-web", "enforce", "-"),
    ),
    hosts=("db1", "db2", "dev1", "web1"),
    tests=4,
    findings=(WARNING,),
)
SERVICES = {"ping": frozenset({"icmp/8", "icmpv6/128"}), "mail": frozenset({"tcp/25", "tcp/587"})}
PSQL = v.Process(812, "/usr/bin/psql", "psql -h db1", "app", "shop.service", "system.slice/shop.service")
SHELL = v.Cut("bastion1", "host", "ingress", None, "203.0.113.7", "", "tcp/22", 51_000, 0, "office-ssh")
POOLED = v.Cut("web1", "shop-web", "egress", PSQL, "10.0.1.12", "db1", "tcp/5432", 0, 40_000, "web-to-db")
OBSERVED = v.Cut("web1", "host", "egress", PSQL, "2001:db8:40::7", "", "ip/132", 0, 0, "")
CUTTING_PLAN = replace(
    PLAN,
    findings=(),
    cuts=(SHELL, POOLED, replace(POOLED, local_port=40_002), OBSERVED),
    cut_total=1234,
    unasked=("db2", "web7"),
)
UNASKED_PLAN = replace(PLAN, findings=(), changes=(), unasked=("db1", "db2"))
UNREADY_PLAN = v.Plan(
    base_generation=7,
    digest="3f2a91c0b1d2e3f4",
    modes=(
        *(v.ModeChange(f"db{n}", "shop-db", "test", "enforce") for n in range(1, 9)),
        v.ModeChange("db1", "host", "observe", "enforce, outgoing drop"),
        v.ModeChange("web1", "host", "test", "enforce"),
    ),
    hosts=(*(f"db{n}" for n in range(1, 9)), "web1"),
    tests=2,
    impact=vi.FlowImpact(judged_flows=1234),
    unready=(
        v.Unready(
            vl.Selection({"app": "shop", "env": "prod"}),
            (
                *(v.ModeChange(f"db{n}", "shop-db", "test", "enforce") for n in range(1, 9)),
                v.ModeChange("db1", "host", "observe", "enforce, outgoing drop"),
            ),
            (
                vl.Obstacle(
                    "skips-test", "it skips test: what it would deny was never reported", "push it in test first"
                ),
                vl.Obstacle("young", "observed for 0.5 of 7 days", "wait, or ask for fewer: --days"),
            ),
        ),
        v.Unready(
            vl.Selection({"role": "web"}, "host"),
            (v.ModeChange("web1", "host", "test", "enforce"),),
            (vl.Obstacle("silent", "no flow was seen in this phase", "wait"),),
        ),
    ),
)
EMPTY_PLAN = v.Plan(base_generation=0, digest="00", tests=0)
BROKEN_PLAN = v.Plan(base_generation=7, digest="", findings=(ERROR, WARNING))

PROVEN = v.Proof("web1", "proven", "0123456789abcdef", 84.2)
REFUSED = v.Proof("db1", "refused", "", 120.0, ("user 'app' does not exist: create it, or use a uid",))
OFFLINE = v.Proof("dev1", "offline", "", 0.0)
RELEASED = v.Proof("db1", "released", "", 3.0, ("released by alice at 2026-11-22 03:00:00 UTC",))
NEW = v.Proof("dev2", "offline", "", 0.0, (), True)
WAITING = v.Proof("bastion1", "waiting", "", 30000.0)

WEB = v.Host(
    name="web1",
    tags={"role": "web", "env": "prod", "app": "shop"},
    addresses=("10.0.1.11", "2001:db8:1::11"),
    connected=True,
    last_seen=before(1),
    agent_version="0.1.0",
    kernel="6.1.0-18-amd64",
    kernel_generation=8,
    state="in-sync",
    workloads=(
        v.WorkloadStatus("host", "observe", ""),
        v.WorkloadStatus("shop-web", "enforce", "unit:nginx.service", ("system.slice/nginx.service",)),
    ),
    listeners=(v.Listener("tcp", "0.0.0.0", 443, "shop-web", "nginx", 33, "system.slice/nginx.service"),),
)
DB = replace(
    WEB,
    name="db1",
    tags={"role": "db", "env": "prod"},
    addresses=("10.0.1.12",),
    kernel_generation=7,
    state="refused",
    workloads=(
        v.WorkloadStatus("host", "enforce", ""),
        v.WorkloadStatus("shop-db", "enforce", "unit:postgresql@*.service"),
    ),
    listeners=(),
    problems=(
        "generation 8 refused: user 'app' does not exist. Create the user on db1, or name a uid, and push again.",
    ),
    troubles=(
        v.Trouble(
            "the agent refused the policy: user 'app' does not exist: create it, or use a uid",
            "mend what it names and push again; segctl-agent doctor on the host tells more",
        ),
    ),
)
DEV = replace(
    WEB,
    name="dev1",
    tags={},
    addresses=(),
    connected=False,
    last_seen=before(7200),
    kernel_generation=0,
    state="offline",
    workloads=(),
    listeners=(),
    problems=("offline for 2 h: it keeps enforcing what it has. Check systemctl status segctl-agent on dev1.",),
    troubles=(
        v.Trouble("its agent is not connected: it keeps its last policy", "segctl-agent doctor on the host says why"),
    ),
)
TOLD = replace(
    WEB,
    table_guard="watched",
    mark_mask=0xFFFFFF80,
    workloads=(
        v.WorkloadStatus("host", "observe", "", (), "rest", "closed-until-known"),
        v.WorkloadStatus(
            "shop-job",
            "enforce",
            "executable:/opt/shop/job",
            ("system.slice/cron.service/segctl-shop-job",),
            "executable",
            "best-effort",
            "a program that the kernel starts before the agent is asked has the identity of its parent until then",
        ),
        replace(WEB.workloads[1], identified="slice", strength="race-free"),
    ),
)
EVENTS = (
    v.Event(
        "web1",
        "tamper",
        "nft (pid 331) changed the rules: chain input is gone; set w1_in4 has 2 elements more. Healed in 30.1 ms",
        before(60),
        331,
        "nft",
    ),
    v.Event("db1", "refused", "generation 8 was refused", before(70), None, ""),
)
STATUS = v.Status(
    "shop",
    "0.1.0",
    GENERATION,
    (WEB, DB, DEV),
    EVENTS,
)
WELL = v.Status("shop", "0.1.0", GENERATION, (WEB, replace(WEB, name="web2")))
OPENED = v.Status(
    "shop",
    "0.1.0",
    GENERATION,
    (
        WEB,
        replace(
            DB,
            state="released",
            kernel_generation=0,
            workloads=tuple(replace(w, mode="") for w in DB.workloads),
            problems=(
                "released by alice at 03:00 UTC: nothing is enforced on this host; `segctl-agent load` on it ends that",
            ),
            troubles=(
                v.Trouble(
                    "released by alice at 03:00 UTC: nothing is enforced on this host",
                    "segctl-agent load on the host, when the emergency is over",
                ),
            ),
        ),
    ),
)
FRESH = v.Status("shop", "0.1.0", None)
COMING = replace(WELL, hosts=(WEB, replace(WEB, name="web2", state="pending", kernel_generation=7)))
LARGE = v.Status(
    "shop",
    "0.1.0",
    GENERATION,
    (
        *(replace(WEB, name=f"web{i}") for i in range(1, 991)),
        *(replace(DEV, name=f"dev{i}", kernel_generation=7) for i in range(1, 8)),
        DB,
        replace(DB, name="db2"),
        replace(OPENED.hosts[1], name="db3"),
    ),
)

ENDS = (
    v.End(
        "web1",
        "shop-web",
        "egress",
        "allowed",
        "enforce",
        "rule",
        "web-to-db",
        "policy/shop.yaml:24:5",
        "allowed",
        "10.0.1.12: allowed (chain output > chain w1_out > w1_out rule 1: ip daddr @w1_out4 accept); "
        "2001:db8:1::12: allowed (chain output > chain w1_out > w1_out rule 2: ip6 daddr @w1_out6 accept)",
    ),
    v.End(
        "db1",
        "shop-db",
        "ingress",
        "allowed",
        "enforce",
        "rule",
        "web-to-db",
        "policy/shop.yaml:24:5",
        "denied",
        "10.0.1.11: denied (chain input > chain end2_in > end2_in rule 3: drop); "
        "2001:db8:1::11: no answer within 5 seconds",
    ),
)
ALLOWED = v.Explanation(
    "web1/shop-web",
    "db1/shop-db",
    "tcp/5432",
    "allowed",
    8,
    False,
    True,
    (
        ENDS[0],
        replace(
            ENDS[1],
            kernel_verdict="allowed",
            kernel_detail="10.0.1.11: allowed (there is no table: nothing is enforced)",
        ),
    ),
)
DIFFERS = replace(ALLOWED, differs=True, ends=ENDS)
DENIED = v.Explanation(
    source="web1/host",
    destination="db1/shop-db",
    service="postgres",
    verdict="denied",
    generation=8,
    differs=False,
    live=False,
    ends=(
        v.End("web1", "host", "egress", "allowed", "observe", "default", "", "", "", ""),
        v.End("db1", "shop-db", "ingress", "denied", "enforce", "boundary", "dev-out", "policy/shop.yaml:20:5", "", ""),
    ),
    nearest_rule="web-to-db",
    nearest_why="its source is the workload shop-web, and this process belongs to host",
    suggestion="rules:\n  - {name: web-to-db-2, from: {role: web}, to: {workload: shop-db}, allow: [postgres]}",
    notes=("web1 is in observe: its egress is not enforced",),
)

PROCESS = v.Process(
    812, "/usr/bin/curl", "curl -v telnet://db1:5432", "www-data", "cron.service", "system.slice/cron.service"
)
DENIAL = v.Denial(
    id=1,
    host="web1",
    workload="host",
    tags={"env": "prod", "role": "web"},
    direction="egress",
    verdict="denied",
    process=PROCESS,
    process_unknown="",
    peer_address="10.0.1.12",
    peer_host="db1",
    peer_workload="shop-db",
    peer_tags={"env": "prod", "role": "db"},
    service="tcp/5432",
    service_name="postgres",
    reason="default",
    rule="",
    suggestion="rules:\n  - {name: host-to-shop-db, from: {role: web}, to: {workload: shop-db}, allow: [postgres]}",
    count=3,
    first_seen=before(20),
    last_seen=before(5),
    generation=8,
)
INCOMING = replace(
    DENIAL,
    id=2,
    host="db1",
    workload="shop-db",
    direction="ingress",
    verdict="would-deny",
    process=None,
    process_unknown="no socket was listening",
    peer_address="2001:db8:40::7",
    peer_host="",
    peer_workload="",
    peer_tags={},
    service="udp/161",
    service_name="",
    reason="boundary",
    rule="office-stays-out",
    suggestion="",
    count=12345,
    first_seen=before(200600),
    last_seen=before(200000),
)
HOSTILE = replace(
    DENIAL, id=3, process=replace(PROCESS, exe="/tmp/\x1b]0;owned\x07sh", command="sh -c '\x1b[2J\x9b31m\u202etxt'\n")
)
OVER_IPV6 = replace(DENIAL, id=4, peer_address="2001:db8:1::12", count=1, last_seen=before(4))

FLOW = v.Flow(
    host="web1",
    workload="shop-web",
    direction="egress",
    peer_address="10.0.1.12",
    peer_host="db1",
    peer_workload="shop-db",
    service="tcp/5432",
    service_name="postgres",
    rule="web-to-db",
    verdict="allowed",
    flows=12345,
    bytes_sent=740_000,
    bytes_received=91_234_567,
    first_seen=before(80_000),
    last_seen=before(5),
)
FLOWS = v.Flows(
    (
        replace(FLOW, peer_workload="", rule="", verdict="would-deny", service_name="", last_seen=before(7000)),
        replace(
            FLOW,
            direction="ingress",
            peer_address="2001:db8:40::7",
            peer_host="",
            peer_workload="",
            service="icmpv6/128",
            service_name="",
            rule="",
            verdict="observed",
            bytes_sent=0,
            bytes_received=0,
        ),
        replace(FLOW, workload="host", rule="", service="udp/53", service_name="dns", peer_host="", flows=1),
        replace(FLOW, workload="host", process="unit:cron.service", peer_workload="", peer_process="exe:/usr/bin/nc"),
        replace(FLOW, peer_address="2001:db8:1::12", flows=2),
        replace(FLOW, process="unit:nginx.service", peer_process="unit:postgresql@15-main.service"),
    ),
    lost=1234,
)
DENIED_FLOWS = v.Flows((replace(FLOW, process="exe:/usr/bin/curl", verdict="denied", rule="", flows=4),))
TALKERS = (
    v.Talker("db1", "shop-db", 12_345, 91_234_567, 740_000, before(5)),
    v.Talker("web1", "host", 3, 0, 0, before(7000)),
)
_WEB, _DB = {"app": "shop", "env": "prod", "role": "web"}, {"app": "shop", "env": "prod", "role": "db"}
_HOSTS = vm.MapEnd(_WEB), vm.MapEnd(_DB)
_ALLOWED = tuple(
    vm.MapReason(end, "allowed", "rule", "web-to-db", 12_345, "team-shop") for end in ("source", "destination")
)
_DENIED = vm.MapReason("source", "denied", "default", "", 20)
MAP = vm.FlowMap(
    (
        vm.MapEdge(
            *_HOSTS,
            "tcp/5432",
            "postgres",
            12_345,
            0,
            0,
            91_974_567,
            before(5),
            "allowed",
            vm.MapVerdicts(allowed=12_345),
            vm.MapComparison(permitted=12_345, misdropped=3),
            _ALLOWED,
            denied=3,
        ),
        vm.MapEdge(
            _HOSTS[0],
            vm.MapEnd(None, peer="office"),
            "tcp/443",
            "https",
            200,
            20,
            0,
            0,
            before(90),
            "denied",
            vm.MapVerdicts(allowed=180, denied=20),
            vm.MapComparison(permitted=180, rejected=7, escaped=20),
            (_DENIED, replace(_ALLOWED[0], rule="web-to-office", flows=180)),
            denied=7,
        ),
        vm.MapEdge(
            vm.MapEnd(None),
            _HOSTS[0],
            "tcp/443",
            "https",
            900,
            0,
            900,
            4_000_000,
            before(1),
            "not-covered",
            vm.MapVerdicts(not_covered=900),
            vm.MapComparison(permitted=900),
            (vm.MapReason("destination", "not-covered", "default", "", 900),),
        ),
        vm.MapEdge(
            vm.MapEnd({}),
            _HOSTS[1],
            "udp/8125",
            "",
            7,
            0,
            2,
            700,
            before(80_000),
            "would-deny",
            vm.MapVerdicts(would_deny=7),
            vm.MapComparison(permitted=7),
            (vm.MapReason("source", "would-deny", "boundary", "dev-stays-out-of-prod", 7),),
        ),
    ),
    lost=17,
    generation=8,
    compared_since=before(3600),
)
PROCESS_MAP = vm.FlowMap(
    (
        replace(
            MAP.edges[0],
            source=vm.MapEnd(_WEB, host="web1", workload="shop-web", process="unit:nginx.service"),
            destination=vm.MapEnd(_DB, host="db1", workload="shop-db", process="unit:postgresql@15-main.service"),
        ),
        replace(
            MAP.edges[1],
            source=vm.MapEnd(_WEB, host="web1", workload="host"),
            destination=vm.MapEnd(None, peer="office", network="203.0.113.0/24"),
            comparison=None,
        ),
    ),
    more_denied=True,
)
_BLOCKED = vi.BlockedFlow(
    "web1",
    "shop-web",
    "egress",
    _WEB,
    "db1",
    _DB,
    "",
    "tcp/5432",
    "postgres",
    12_345,
    before(5),
    "default",
    "",
    "allowed",
    "web-to-db",
    "team-shop",
    ("unit:nginx.service",),
)
IMPACT = vi.FlowImpact(
    (
        _BLOCKED,
        replace(_BLOCKED, direction="ingress", peer_host="", peer_tags={}, peer_address="203.0.113.9", flows=3),
        replace(
            _BLOCKED,
            reason="boundary",
            rule="dev-stays-out-of-prod",
            service="tcp/22",
            service_name="",
            flows=1,
            was="would-deny",
            was_rule="",
            owner="",
            processes=(),
        ),
    ),
    blocked_kinds=14,
    blocked_flows=12_360,
    judged_flows=98_765,
    newly_blocked_flows=12_000,
    allowed=(
        replace(_BLOCKED, service_name="", service="tcp/6432", reason="rule", rule="web-to-db", was="denied", flows=40),
    ),
    allowed_kinds=1,
    allowed_flows=40,
)
REPLAY = replace(
    IMPACT,
    spans=tuple(
        vi.ImpactSpan(before(86_400 * n), before(86_400 * (n - 1)), 98_765 - n, 7 * (3 - n), 40 * (n == 1))
        for n in (3, 2, 1)
    ),
    since=before(3 * 86_400),
)
USES = (
    vl.RuleUse("idle", 0, None, 0, True),
    vl.RuleUse("office-ssh", 7, before(200_000), 1, False),
    vl.RuleUse("spare", 0, None, 0, True),
    vl.RuleUse("web-to-db", 12345, before(5), 2, True),
)
RULES = (
    replace(
        USES[0],
        owner="team-shop",
        findings=(
            vl.RuleFinding(
                "never-hit",
                "never hit in the 40 days or more that it has been in force; no enrolled host is at one of its ends",
                "ask its owner what it is for, or remove it",
            ),
        ),
    ),
    USES[2],
    replace(
        USES[3],
        owner="team-shop",
        findings=(
            vl.RuleFinding(
                "expired", "it expired on 2026-11-01 and permits nothing", "remove it, or give it a new date"
            ),
            vl.RuleFinding(
                "too-broad",
                "it permits 5,308,335 tuples of workloads and ports, of which 1 were used in the last 30 days; the "
                "narrower rule permits 1",
                "put the narrower rule in its place, unless the rest is meant for what comes rarely",
                "version: 1\nrules:\n- name: web-to-db\n  from: {workload: shop-web, env: prod}\n",
            ),
        ),
    ),
)
_SEEN = vl.SeenFlow(
    "web1", "host", "egress", _WEB, "db1", _DB, "", "tcp/5432", "postgres", 12_345, before(5), "exe:/usr/bin/psql"
)
_OUT = replace(_SEEN, direction="ingress", peer_host="", peer_tags={}, peer_address="203.0.113.9", flows=3)
READINESS = vl.Readiness(
    vl.Selection({"app": "shop", "env": "prod"}),
    "test",
    "enforce",
    False,
    before(9.5 * 86_400),
    False,
    12,
    9.5,
    1_234_567,
    1_200_000,
    22_219,
    12_348,
    14,
    3,
    (_SEEN, _OUT),
    (vl.PeriodicFlow(_OUT, 7, NOW + timedelta(days=2), False), vl.PeriodicFlow(_SEEN, 30, NOW, True)),
    2,
    3,
    (replace(ERROR, message="test: web -> db tcp/5432 must be allowed, but no rule permits it"),),
    (
        vl.Obstacle("tests", "1 of the policy's tests fail", "segctl check names them"),
        vl.Obstacle(
            "coming", "3 unexplained flows came in the last day", "they would be denied: write rules, or a boundary"
        ),
    ),
)
READY = replace(
    READINESS,
    select=vl.Selection({}, "shop-db"),
    ready=True,
    since_known=True,
    bounded=0,
    unexplained=0,
    unexplained_kinds=0,
    top=(),
    periodic=(),
    periodic_kinds=0,
    broken_tests=(),
    obstacles=(),
)
READY_LIST = vl.ReadyList(
    (READINESS, READY, replace(READY, phase="enforce", next="", ready=False, flows=0, since=None)), 8
)

TOKEN = va.Token("3f9a12", {"role": "web"}, "", ("10.0.0.0/24",), 1, NOW + timedelta(hours=1), "alice")
NEW_TOKEN = va.NewToken("3f9a12", NOW + timedelta(hours=1), "eyJjIjpbXX0", "")
AUDIT = va.AuditEntry(
    12,
    before(300),
    "alice",
    "push",
    "generation 8",
    "checkout may reach the db",
    "certificate 3f9a12bc",
    "10.0.9.7",
    "aa" * 32,
    "9f2c51e07a3b" + "00" * 26,
)
PROOF = va.AuditProof(1234, "9f2c51e07a3b" + "00" * 26, "77aa51e07a3b")
API_TOKENS = (
    va.ApiToken(
        "a-3f9a12bc", "ci", "owner", {"app": "shop"}, "alice", before(99), NOW + timedelta(days=90), before(60)
    ),
    va.ApiToken("a-77120044", "dashboard", "viewer", {}, "oidc/alice@example.net", before(9e6), before(3600), None),
)
OWNER = va.WhoAmI(
    "token/ci",
    "owner",
    "shop",
    "controller:7446",
    "0.1.0",
    None,
    "api-token a-3f9a12bc",
    ({"app": "shop"},),
    NOW + timedelta(days=90),
)
WHO = va.WhoAmI("alice", "admin", "shop", "controller:7443", "0.1.0", datetime(2040, 1, 2, tzinfo=UTC))

TRIED = replace(WELL, trial=v.Trial(ON_TRIAL, v.Phase("watching", 1, 1, 3, 3), 3))

ROTATED = replace(
    WELL,
    ca=v.CaStatus(
        "active",
        (
            v.Ca("CN=segctl CA shop 1a2b3c4d", NOW + timedelta(days=20), False, 1),
            v.Ca("CN=segctl CA shop 5e6f7a8b", NOW + timedelta(days=3653), True, 1),
        ),
        NOW + timedelta(days=80),
    ),
)
PREPARED = replace(WELL, ca=v.CaStatus("prepared", (v.Ca("CN=a", NOW + timedelta(days=20), True, 2),), NOW))
ENDING = replace(WELL, ca=replace(PREPARED.ca, stage="steady", controller_until=NOW + timedelta(days=80)))
