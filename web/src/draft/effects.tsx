// What a draft would do, from its plan and its replay over observed flows.
import type { JSX } from "preact";
import { address, count, moment, num, plural, service, tagText } from "../format";
import type { BlockedFlow, Change, CutConnection, DraftImpactFlowsReply, Finding, ImpactSpan, PlanReply } from "../messages";
import { Badge, When } from "../ui/parts";
import { Table, type Column } from "../ui/table";

export interface Effect {
  plan: PlanReply;
  /** null: the draft is refused, and was not replayed. */
  impact: DraftImpactFlowsReply | null;
}

export function Effects({ effect: { plan, impact } }: { effect: Effect }): JSX.Element {
  const findings = plan.findings ?? [];
  const changes = plan.changes ?? [];
  const modes = plan.modes ?? [];
  const cuts = plan.cuts ?? [];
  return (
    <section aria-label="What the draft would do">
      <p class="summary" role="status">
        {impact ? "A push of this draft would be taken." : "A push of this draft would be refused."}{" "}
        {plural(changes.length, "permission")} and {plural(modes.length, "mode")} change on {plural((plan.hosts ?? []).length, "host")};{" "}
        {plural(plan.tests ?? 0, "test")} ran; {plural(num(plan.cut_total), "live connection")} would be cut.
      </p>
      {findings.length > 0 && <Table caption={plural(findings.length, "finding")} columns={FINDINGS} rows={findings} keyOf={findingKey} />}
      {changes.length > 0 && <Table caption={plural(changes.length, "permission") + " would change"} columns={CHANGES} rows={changes} keyOf={changeKey} />}
      {modes.length > 0 && (
        <Table
          caption={plural(modes.length, "mode") + " would change"}
          columns={[
            { head: "Workload", names: true, cell: (one) => `${one.host}/${one.workload}` },
            { head: "Before", cell: (one) => <Badge kind={one.before ?? ""}>{one.before || "none"}</Badge> },
            { head: "After", cell: (one) => <Badge kind={one.after ?? ""}>{one.after || "none"}</Badge> },
          ]}
          rows={modes}
          keyOf={(one) => `${one.host}/${one.workload}`}
        />
      )}
      {cuts.length > 0 && <Table caption={`${plural(num(plan.cut_total), "live connection")} would be cut`} columns={CUTS} rows={cuts} keyOf={cutKey} />}
      {impact && <Replay impact={impact} />}
    </section>
  );
}

function Replay({ impact }: { impact: DraftImpactFlowsReply }): JSX.Element {
  const blocked = impact.blocked ?? [];
  const allowed = impact.allowed ?? [];
  const spans = impact.spans ?? [];
  const most = Math.max(1, ...spans.map((span) => num(span.blocked_flows)));
  return (
    <>
      <h2>Over the past</h2>
      <p class="summary">
        Of {plural(num(impact.judged_flows), "observed flow")}, {count(impact.blocked_flows)} would be denied, {count(impact.newly_blocked_flows)} of them
        newly; {count(impact.allowed_flows)} would come to be allowed.
        {impact.more && " Not every kind was judged: there are too many."}
      </p>
      {blocked.length > 0 && <Table caption="Would be denied, most flows first" columns={IMPACT} rows={blocked} keyOf={flowKey} />}
      {allowed.length > 0 && <Table caption="Would come to be allowed, most flows first" columns={IMPACT} rows={allowed} keyOf={flowKey} />}
      {spans.some((span) => num(span.judged_flows) > 0) && (
        <Table caption="The replay, the oldest first" columns={spansColumns(most)} rows={spans} keyOf={(span) => String(span.since_us)} />
      )}
    </>
  );
}

const FINDINGS: readonly Column<Finding>[] = [
  { head: "Where", names: true, cell: (one) => (one.line ? `${one.file}:${one.line}` : "the policy") },
  { head: "What", cell: (one) => <Badge kind={one.severity === "error" ? "denied" : "would-deny"}>{one.severity}</Badge> },
  { head: "Finding", cell: (one) => one.message },
  { head: "Mend", cell: (one) => one.hint },
];
const findingKey = (one: Finding): string => `${one.file}:${one.line}:${one.column} ${one.code} ${one.message}`;

const CHANGES: readonly Column<Change>[] = [
  { head: "Becomes", cell: (one) => <Badge kind={one.allowed ? "allowed" : "denied"}>{one.allowed ? "allowed" : "denied"}</Badge> },
  { head: "From", names: true, cell: (one) => one.source },
  { head: "To", cell: (one) => one.destination },
  { head: "Service", cell: (one) => one.service },
  { head: "Rule", cell: (one) => one.rule },
  { head: "Hosts", number: true, cell: (one) => count((one.hosts ?? []).length) },
];
const changeKey = (one: Change): string => `${one.allowed} ${one.source} ${one.destination} ${one.service} ${one.rule}`;

const CUTS: readonly Column<CutConnection>[] = [
  { head: "Workload", names: true, cell: (one) => `${one.host}/${one.connection?.workload}` },
  { head: "Way", cell: (one) => (one.connection?.ingress ? "← in" : "→ out") },
  { head: "Peer", cell: (one) => one.peer_host || address(one.connection?.remote) },
  { head: "Service", cell: (one) => service(one.connection?.service) },
];
const cutKey = (one: CutConnection): string =>
  [one.host, one.connection?.workload, one.connection?.remote, service(one.connection?.service), JSON.stringify(one.connection)].join(" ");

const IMPACT: readonly Column<BlockedFlow>[] = [
  { head: "Workload", names: true, cell: (one) => `${one.host}/${one.workload}` },
  { head: "Way", cell: (one) => (one.ingress ? "← in" : "→ out") },
  { head: "Peer", cell: (one) => one.peer_host || address(one.remote) || tagText(one.peer_tags) },
  { head: "Service", cell: (one) => service(one.service, one.service_name) },
  { head: "By", cell: (one) => (one.reason === "default" ? "no rule" : `${one.reason} ${one.rule ?? ""}`) },
  { head: "Was", cell: (one) => one.was && <Badge kind={one.was}>{`${one.was}${one.was_rule ? ` by ${one.was_rule}` : ""}`}</Badge> },
  { head: "Owner", cell: (one) => one.owner },
  { head: "Processes", cell: (one) => (one.processes ?? []).join(", ") },
  { head: "Flows", number: true, cell: (one) => count(one.flows) },
  { head: "Last seen", cell: (one) => <When us={one.last_seen_us} brief /> },
];
const flowKey = (one: BlockedFlow): string =>
  [one.host, one.workload, one.ingress, one.peer_host, one.remote, tagText(one.peer_tags), service(one.service), one.rule].join(" ");

const spansColumns = (most: number): readonly Column<ImpactSpan>[] => [
  { head: "From (UTC)", names: true, cell: (span) => moment(span.since_us).slice(0, 16) },
  { head: "Flows", number: true, cell: (span) => count(span.judged_flows) },
  {
    head: "Denied",
    number: true,
    cell: (span) => (
      <>
        {count(span.blocked_flows)} <meter value={num(span.blocked_flows)} max={most} aria-hidden="true" />
      </>
    ),
  },
  { head: "Allowed anew", number: true, cell: (span) => count(span.allowed_flows) },
];
