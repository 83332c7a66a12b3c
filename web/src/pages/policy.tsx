// The policy in force, or that of a moment or a generation: every rule with what it does.
import type { JSX } from "preact";
import { call } from "../api";
import type { PageProps } from "../app";
import { count, num, plural } from "../format";
import { useLoad } from "../load";
import type { DescribedName, DescribedRule, PolicyDescription, RuleFinding, RuleLife } from "../messages";
import { href, setParams } from "../router";
import { spanOf } from "../span";
import { Badge, Choice, Command, Empty, Failed, Field, Loading, When } from "../ui/parts";
import { AtField } from "../ui/spanbar";
import { Table, type Column } from "../ui/table";

interface Asked {
  policy: PolicyDescription;
  lives: Map<string, RuleLife>;
}

interface RuleRow {
  rule: DescribedRule;
  life: RuleLife | undefined;
  findings: RuleFinding[];
}

/** What is wrong with rules, in words; the most urgent first. */
const KINDS: Record<string, { text: string; badge: string }> = {
  expired: { text: "expired", badge: "denied" },
  "no-effect": { text: "no effect", badge: "denied" },
  shadowed: { text: "shadowed", badge: "denied" },
  "review-due": { text: "review due", badge: "would-deny" },
  "no-owner": { text: "no owner", badge: "would-deny" },
  "too-broad": { text: "too broad", badge: "would-deny" },
  "expires-soon": { text: "expires soon", badge: "would-deny" },
  stale: { text: "stale", badge: "not-covered" },
  "never-hit": { text: "never hit", badge: "not-covered" },
};

async function load(generation: string, at: number | null, signal: AbortSignal): Promise<Asked> {
  const request = generation ? { generation } : at === null ? {} : { at_us: String(at * 1000) };
  const [policy, report] = await Promise.all([call("DescribePolicy", request, signal), call("RuleReport", {}, signal)]);
  return { policy, lives: new Map((report.rules ?? []).map((one) => [one.use?.rule ?? "", one])) };
}

/** Findings are about the policy in force: an earlier one has none. */
function rowsOf({ policy, lives }: Asked): RuleRow[] {
  return (policy.rules ?? []).map((rule) => {
    const life = lives.get(rule.name ?? "");
    return { rule, life, findings: policy.generation?.active ? (life?.findings ?? []) : [] };
  });
}

export function PolicyPage({ place }: PageProps): JSX.Element {
  const { params } = place;
  const { at } = spanOf(params);
  const generation = /^\d+$/.test(params.get("generation") ?? "") ? params.get("generation")! : "";
  const { data, error, loading, again } = useLoad(`${generation} ${at}`, (signal) => load(generation, at, signal));
  return (
    <>
      <div class="title">
        <h1 tabIndex={-1}>Policy</h1>
        <div class="tools">{!generation && <AtField place={place} />}</div>
      </div>
      {error && <Failed error={error} again={again} />}
      {!data && loading && <Loading what="the policy" />}
      {data && !data.policy.generation && <Nothing past={at !== null} />}
      {data?.policy.generation && <Shown asked={data} params={params} generation={generation} />}
    </>
  );
}

function Shown({ asked, params, generation }: { asked: Asked; params: URLSearchParams; generation: string }): JSX.Element {
  const { policy } = asked;
  const stored = policy.generation!;
  const rows = rowsOf(asked);
  return (
    <>
      <p class="summary">
        Generation <b>{String(stored.number)}</b>
        {stored.active ? ", in force," : `, ${stored.state},`} by {stored.author}, <When us={stored.created_us} /> UTC
        {stored.message && <>: “{stored.message}”</>}. {guardText(policy.tests ?? 0)}{" "}
        {generation && <a href="/policy">The policy in force</a>}
      </p>
      {rows.length === 0 && (
        <p class="note">
          It has no rules. <a href="/suggestions">Suggestions</a> are made of what hosts observed.
        </p>
      )}
      {rows.length > 0 && <Rules rows={rows} params={params} generation={generation} />}
      <Statements policy={policy} />
    </>
  );
}

function Rules({ rows, params, generation }: { rows: readonly RuleRow[]; params: URLSearchParams; generation: string }): JSX.Element {
  const text = (params.get("text") ?? "").toLowerCase();
  const kind = params.get("finding") ?? "";
  const only = params.get("rule") ?? "";
  const shown = rows.filter(
    ({ rule, findings }) =>
      (!only || rule.name === only) &&
      (!kind || findings.some((finding) => finding.kind === kind)) &&
      (!text || [rule.name, rule.source, rule.destination, rule.owner, ...(rule.allow ?? [])].join(" ").toLowerCase().includes(text)),
  );
  const search = (event: SubmitEvent) => {
    event.preventDefault();
    setParams({ text: String(new FormData(event.currentTarget as HTMLFormElement).get("text")).trim(), rule: "" });
  };
  return (
    <>
      <form class="filters" role="search" aria-label="Filter rules" onSubmit={search} key={params.toString()}>
        <Field label="Rule, end, owner or service" name="text" value={only || text} placeholder="shop" />
        <Choice
          label="Needs attention"
          value={kind}
          options={[["", "all rules"], ...counted(rows)]}
          onChange={(value) => setParams({ finding: value })}
        />
        <button type="submit" class="primary">
          Filter
        </button>
        {(only || text || kind) && (
          <a class="button" href={href("/policy", { generation })}>
            Clear
          </a>
        )}
      </form>
      <Table
        key={params.toString()}
        caption={`${count(shown.length)} of ${plural(rows.length, "rule")}`}
        columns={RULES}
        rows={shown}
        keyOf={(row) => row.rule.name ?? ""}
        more={(row) => <More row={row} />}
        opened={only}
      />
    </>
  );
}

const RULES: readonly Column<RuleRow>[] = [
  { head: "Rule", names: true, cell: ({ rule }) => rule.name },
  { head: "From", cell: ({ rule }) => rule.source },
  { head: "To", cell: ({ rule }) => rule.destination },
  { head: "Allows", cell: ({ rule }) => (rule.allow ?? []).join(", ") },
  { head: "Hits", number: true, cell: ({ life }) => count(life?.use?.count) },
  { head: "Last hit", cell: ({ life }) => <When us={life?.use?.last_hit_us} brief /> },
  { head: "Owner", cell: ({ rule }) => rule.owner },
  { head: "Review", cell: ({ rule }) => rule.review || <span class="quiet">none</span> },
  {
    head: "Attention",
    cell: ({ findings }) => (
      <>
        {findings.map(({ kind = "" }) => (
          <Badge key={kind} kind={KINDS[kind]?.badge ?? ""}>
            {KINDS[kind]?.text ?? kind}
          </Badge>
        ))}
      </>
    ),
  },
];

/** The kinds that occur, with how many rules have each. */
function counted(rows: readonly RuleRow[]): (readonly [string, string])[] {
  return Object.entries(KINDS).flatMap(([kind, { text }]) => {
    const found = rows.filter((row) => row.findings.some((finding) => finding.kind === kind)).length;
    return found ? [[kind, `${text} (${found})`] as const] : [];
  });
}

function More({ row: { rule, life, findings } }: { row: RuleRow }): JSX.Element {
  return (
    <div class="facts">
      {findings.length > 0 && (
        <div>
          <h3>Needs attention</h3>
          {findings.map((finding) => (
            <div key={finding.kind}>
              <p>
                <b>{KINDS[finding.kind ?? ""]?.text ?? finding.kind}:</b> {finding.why} <span class="quiet">{finding.mend}</span>
              </p>
              {finding.narrower && <Command text={finding.narrower.trimEnd()} />}
            </div>
          ))}
        </div>
      )}
      <dl>
        <dt>Why</dt>
        <dd>{rule.why || "no reason is given"}</dd>
        {(rule.within ?? []).length > 0 && (
          <>
            <dt>Within</dt>
            <dd>the same {rule.within!.join(" and ")} at both ends</dd>
          </>
        )}
        {rule.expires && (
          <>
            <dt>Expires</dt>
            <dd>{rule.expires}</dd>
          </>
        )}
        <dt>Written in</dt>
        <dd>
          {rule.file}:{rule.line}
        </dd>
        <dt>Hit on</dt>
        <dd>{plural(life?.use?.hosts ?? 0, "host")}</dd>
        {num(life?.since_us) > 0 && (
          <>
            <dt>Permits this</dt>
            <dd>
              since {life?.since_known ? "" : "at least "}
              <When us={life?.since_us} /> UTC
            </dd>
          </>
        )}
      </dl>
      <p class="actions">
        <a href={href("/flows", { rule: rule.name, span: "7d" })}>Flows that it allowed</a>
      </p>
    </div>
  );
}

function guardText(tests: number): string {
  if (tests === 0) return "No test guards it.";
  return `${plural(tests, "test")} ${tests === 1 ? "guards" : "guard"} it.`;
}

function Statements({ policy }: { policy: PolicyDescription }): JSX.Element {
  const { boundaries = [], modes = [] } = policy;
  return (
    <>
      <h2>Boundaries</h2>
      {boundaries.length === 0 ? (
        <p class="note">None. A boundary denies whatever rules allow, such as everything from env=dev to env=prod.</p>
      ) : (
        <Table
          caption={`${plural(boundaries.length, "boundary", "boundaries")}: denied, whatever rules allow`}
          columns={[
            { head: "Boundary", names: true, cell: (one) => one.name },
            { head: "From", cell: (one) => one.source },
            { head: "To", cell: (one) => one.destination },
            { head: "Written in", cell: (one) => `${one.file}:${one.line}` },
          ]}
          rows={boundaries}
          keyOf={(one) => one.name ?? ""}
        />
      )}
      <h2>Modes</h2>
      {modes.length === 0 ? (
        <p class="note">None: every workload observes, and nothing is dropped.</p>
      ) : (
        <Table
          caption="Where several apply, the strictest holds"
          columns={[
            { head: "Workloads", names: true, cell: (one) => one.select },
            { head: "Mode", cell: (one) => <Badge kind={one.mode ?? ""}>{one.mode}</Badge> },
            { head: "Written in", cell: (one) => `${one.file}:${one.line}` },
          ]}
          rows={modes}
          keyOf={(one) => `${one.file}:${one.line} ${one.select}`}
        />
      )}
      <details class="names">
        <summary>Names: tags, workloads, services and peers</summary>
        <Names title="Tags" names={policy.tags} />
        <Names title="Workloads" names={policy.workloads} />
        <Names title="Services" names={policy.services} />
        <Names title="Peers" names={policy.peers} />
      </details>
    </>
  );
}

function Names({ title, names = [] }: { title: string; names: DescribedName[] | undefined }): JSX.Element | null {
  if (names.length === 0) return null;
  return (
    <>
      <h3>{title}</h3>
      <dl>
        {names.flatMap(({ name, values = [] }) => [<dt key={name}>{name}</dt>, <dd key={`${name} values`}>{values.join(", ")}</dd>])}
      </dl>
    </>
  );
}

/** A test pushes it. */
const FIRST = `version: 1
tags:
  app: [shop]
  role: [web, db]
services:
  postgres: [tcp/5432]
rules:
  - name: web-to-db
    from: {app: shop, role: web}
    to: {app: shop, role: db}
    allow: [postgres]
    owner: team-shop
    why: the shop keeps its orders in the database`;

function Nothing({ past }: { past: boolean }): JSX.Element {
  return (
    <Empty title={past ? "No policy was in force then" : "No policy was pushed yet"}>
      <p>
        Without one every host observes: nothing is dropped, and the map shows who talks to whom. A policy is a folder of YAML files,
        best under git. The smallest that says something, <b>policy/policy.yaml</b>:
      </p>
      <Command text={FIRST} />
      <p>It names the tags of your hosts, and what may talk to what; without modes it denies nothing. See what it says and what it would change:</p>
      <Command text={"segctl check policy/\nsegctl plan policy/"} />
      <p>Then put it in force:</p>
      <Command text="segctl push policy/ -m 'the first policy'" />
    </Empty>
  );
}
