// Which parts of the fleet can move on, from observe over test to enforce, and what keeps the others.
import type { JSX } from "preact";
import { call } from "../api";
import type { PageProps } from "../app";
import { address, count, moment, num, plural, service, tagText } from "../format";
import { useLoad } from "../load";
import type { PeriodicFlow, Readiness, SeenFlow, Selection } from "../messages";
import { Badge, Command, Empty, Failed, Loading, When } from "../ui/parts";
import { Table, type Column } from "../ui/table";

export function ReadinessPage(_: PageProps): JSX.Element {
  const { data, error, loading, again } = useLoad("readiness", (signal) => call("Readiness", {}, signal));
  const selectors = data?.selectors ?? [];
  return (
    <>
      <div class="title">
        <h1 tabIndex={-1}>Readiness</h1>
        <button type="button" onClick={again}>
          Look again
        </button>
      </div>
      <p class="summary quiet">
        A selector moves from observe over test to enforce when what it does is explained. Moving is a change of the policy, pushed
        by a person; going back is one command.
      </p>
      {error && <Failed error={error} again={again} />}
      {!data && loading && <Loading what="what is ready" />}
      {data && selectors.length === 0 && <Nothing />}
      <div class="cards" aria-busy={loading}>
        {selectors.map((one) => (
          <Card key={selectText(one.select)} one={one} />
        ))}
      </div>
      {data?.more && <p class="note">Not every selector, or not every kind of flow, was looked at: there are too many.</p>}
    </>
  );
}

function selectText(select: Selection | undefined): string {
  const workload = select?.workload ? `workload=${select.workload}` : "";
  return [workload, tagText(select?.tags).replaceAll(", ", ",")].filter(Boolean).join(",") || "everything";
}

function Card({ one }: { one: Readiness }): JSX.Element {
  const flows = num(one.flows);
  const explained = num(one.covered) + num(one.bounded);
  const name = selectText(one.select);
  return (
    <section class="card" aria-label={name}>
      <h2>{name}</h2>
      <p>
        <Badge kind={one.phase ?? ""}>{one.phase}</Badge> → <Badge kind={one.next ?? ""}>{one.next || "done"}</Badge>{" "}
        {one.ready ? <strong class="good">ready</strong> : <strong class="warn">not ready</strong>}
      </p>
      <dl>
        <dt>Phase since</dt>
        <dd>
          {one.since_known ? "" : "at least "}
          <When us={one.since_us} brief />
        </dd>
        <dt>Days with flows</dt>
        <dd>{Math.floor(one.days ?? 0)}</dd>
        <dt>Hosts</dt>
        <dd>{count(one.hosts)}</dd>
        <dt>Explained</dt>
        <dd>
          {flows ? `${((100 * explained) / flows).toFixed(explained < flows ? 2 : 0)}% of ${plural(flows, "flow")}` : "no flows yet"}
          {flows > 0 && <meter value={explained} max={flows} aria-label={`Explained flows of ${name}`} />}
        </dd>
        <dt>Tests</dt>
        <dd>
          {plural(one.tests ?? 0, "test")}
          {(one.broken_tests ?? []).length > 0 && <span class="warn">, {one.broken_tests!.length} broken</span>}
        </dd>
      </dl>
      {(one.obstacles ?? []).length > 0 && (
        <>
          <h3>What keeps it</h3>
          <ul>
            {one.obstacles!.map((obstacle) => (
              <li key={obstacle.code}>
                {obstacle.message}
                {obstacle.hint && <div class="quiet">{obstacle.hint}</div>}
              </li>
            ))}
          </ul>
        </>
      )}
      {one.next && (
        <>
          <h3>To move it</h3>
          <Command text={`segctl enforce ${name} policy/ --write`} />
        </>
      )}
      <More one={one} />
    </section>
  );
}

function More({ one }: { one: Readiness }): JSX.Element | null {
  const top = one.top ?? [];
  const periodic = one.periodic ?? [];
  if (top.length === 0 && periodic.length === 0) return null;
  return (
    <details>
      <summary>
        {plural(one.unexplained_kinds ?? 0, "unexplained kind")} of flows, {plural(one.periodic_kinds ?? 0, "periodic job")} not seen yet
      </summary>
      {top.length > 0 && <Table caption="No rule explains, most flows first" columns={SEEN} rows={top} keyOf={keyOf} />}
      {periodic.length > 0 && (
        <Table caption="Periodic, and not seen since the phase began" columns={PERIODIC} rows={periodic} keyOf={(row) => keyOf(row.flow)} />
      )}
    </details>
  );
}

const endText = (flow: SeenFlow | undefined): string => `${flow?.host}/${flow?.workload}`;
const peerText = (flow: SeenFlow | undefined): string => flow?.peer_host || address(flow?.remote);
const keyOf = (flow: SeenFlow | undefined): string => [endText(flow), flow?.ingress, peerText(flow), service(flow?.service)].join(" ");

const SEEN: readonly Column<SeenFlow>[] = [
  { head: "Workload", names: true, cell: endText },
  { head: "Way", cell: (flow) => (flow.ingress ? "← in" : "→ out") },
  { head: "Peer", cell: peerText },
  { head: "Service", cell: (flow) => service(flow.service, flow.service_name) },
  { head: "Flows", number: true, cell: (flow) => count(flow.flows) },
  { head: "Last seen", cell: (flow) => <When us={flow.last_seen_us} brief /> },
];

const PERIODIC: readonly Column<PeriodicFlow>[] = [
  { head: "Workload", names: true, cell: (row) => endText(row.flow) },
  { head: "Peer", cell: (row) => peerText(row.flow) },
  { head: "Service", cell: (row) => service(row.flow?.service, row.flow?.service_name) },
  { head: "Every", cell: (row) => plural(row.every_days ?? 0, "day") },
  { head: "Expected", cell: (row) => moment(row.expected_us).slice(0, 10) },
  { head: "Rule", cell: (row) => (row.explained ? "explained" : <span class="warn">none</span>) },
];

function Nothing(): JSX.Element {
  return (
    <Empty title="Nothing waits to move on">
      <p>Either everything enforces already, or the policy has no modes yet. To put a selector in test, where nothing is dropped:</p>
      <Command text="segctl enforce app=shop,env=prod policy/ --write" />
    </Empty>
  );
}
