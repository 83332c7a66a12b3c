// Search the flows: which workload of which host talked to whom, and what permitted it.
import type { JSX } from "preact";
import { useEffect } from "preact/hooks";
import { call } from "../api";
import type { PageProps } from "../app";
import { address, bytes, count, num, plural, processName, service } from "../format";
import { useLoad } from "../load";
import type { FlowRecord, FlowsRequest } from "../messages";
import { href, setParams } from "../router";
import { groupOf, portOf } from "../search";
import { bounds, spanOf } from "../span";
import { Badge, Choice, Command, Empty, Failed, Field, Loading, Process, When } from "../ui/parts";
import { AtField, SpanField } from "../ui/spanbar";
import { Table, type Column } from "../ui/table";

const MOST = 1000;
const TEXTS = ["host", "workload", "address", "port", "rule", "process", "from", "to"] as const;
const VERDICTS = [
  ["allowed", "allowed"],
  ["would-deny", "would be denied"],
  ["observed", "observed"],
  ["denied", "denied"],
] as const;

interface Search {
  request: FlowsRequest;
  /** By the field's name, why it cannot be read. */
  wrong: Record<string, string>;
}

function searchOf(params: URLSearchParams): Search {
  const of = (name: string) => params.get(name)?.trim() ?? "";
  const said = { port: portOf(of("port")), from: groupOf(of("from")), to: groupOf(of("to")) };
  const wrong = Object.fromEntries(Object.entries(said).flatMap(([name, one]) => (one.wrong ? [[name, one.wrong]] : [])));
  const request = {
    ...bounds(spanOf(params)),
    limit: MOST,
    host: of("host"),
    workload: of("workload"),
    address: of("address"),
    ...said.port.value,
    rule: of("rule"),
    process: of("process"),
    verdict: of("verdict"),
    ...(said.from.value ? { source: said.from.value } : {}),
    ...(said.to.value ? { destination: said.to.value } : {}),
  };
  return { request, wrong };
}

export function FlowsPage({ place }: PageProps): JSX.Element {
  const { params } = place;
  const { request, wrong } = searchOf(params);
  const readable = Object.keys(wrong).length === 0;
  const { data, error, loading, again } = useLoad(params.toString(), async (signal) => (readable ? call("Flows", request, signal) : null));
  useEffect(() => document.querySelector<HTMLElement>("[aria-invalid]")?.focus(), [params.toString()]);
  const search = (event: SubmitEvent) => {
    event.preventDefault();
    const found = new FormData(event.currentTarget as HTMLFormElement);
    const texts = Object.fromEntries([...TEXTS, "verdict"].map((name) => [name, String(found.get(name) ?? "").trim()]));
    setParams(texts);
  };
  const flows = [...(data?.flows ?? [])].reverse();
  return (
    <>
      <div class="title">
        <h1 tabIndex={-1}>Flows</h1>
        <div class="tools">
          <SpanField place={place} />
          <AtField place={place} />
        </div>
      </div>
      <form class="filters" role="search" aria-label="Search flows" onSubmit={search} key={params.toString()}>
        <Field label="Host" name="host" value={params.get("host") ?? ""} placeholder="web1" />
        <Field label="Workload" name="workload" value={params.get("workload") ?? ""} placeholder="shop-web" />
        <Field label="Peer address or network" name="address" value={params.get("address") ?? ""} placeholder="10.0.0.0/8" />
        <Field label="Port" name="port" value={params.get("port") ?? ""} placeholder="tcp/5432" wrong={wrong.port} />
        <Field label="Rule" name="rule" value={params.get("rule") ?? ""} placeholder="web-to-db" />
        <Field label="Process" name="process" value={params.get("process") ?? ""} placeholder="nginx" />
        <Field label="From tags" name="from" value={params.get("from") ?? ""} placeholder="app=shop, env=prod" wrong={wrong.from} />
        <Field label="To tags" name="to" value={params.get("to") ?? ""} placeholder="role=db, or outside" wrong={wrong.to} />
        <Choice label="Verdict" name="verdict" value={params.get("verdict") ?? ""} options={[["", anyText(params)], ...VERDICTS]} />
        <button type="submit" class="primary">
          Search
        </button>
        <a class="button" href="/flows">
          Clear
        </a>
      </form>
      {error && <Failed error={error} again={again} />}
      {loading && readable && !data && <Loading what="flows" />}
      {data && flows.length === 0 && <Nothing searched={[...TEXTS, "verdict"].some((name) => params.get(name))} />}
      {data && flows.length > 0 && (
        <div aria-busy={loading}>
          <Table caption={caption(flows)} columns={COLUMNS} rows={flows} keyOf={keyOf} />
          {flows.length === MOST && <p class="note">Only the newest {count(MOST)} are shown: search for less.</p>}
          {num(data.lost) > 0 && <p class="note">{count(data.lost)} more flows were counted by hosts and could not be told.</p>}
        </div>
      )}
    </>
  );
}

/** What the controller answers where no verdict is asked for. */
const anyText = (params: URLSearchParams): string => (params.get("process") ? "any, denied ones too" : "any that passed");

const caption = (flows: FlowRecord[]): string => `${plural(flows.length, "kind")} of flows, the newest first`;

function keyOf(flow: FlowRecord): string {
  return [flow.host, flow.workload, flow.ingress, flow.remote, service(flow.service), flow.rule, flow.verdict, flow.process, flow.first_seen_us].join(" ");
}

const COLUMNS: readonly Column<FlowRecord>[] = [
  { head: "Last seen (UTC)", cell: (flow) => <When us={flow.last_seen_us} /> },
  {
    head: "Workload",
    names: true,
    cell: (flow) => (
      <>
        <a href={href("/flows", { host: flow.host })}>{flow.host}</a>/{flow.workload}
        <Process name={processName(flow.process)} whole={flow.process} />
      </>
    ),
  },
  { head: "Way", short: true, cell: (flow) => (flow.ingress ? "← in" : "→ out") },
  {
    head: "Peer",
    cell: (flow) => {
      const name = flow.peer_host ? `${flow.peer_host}${flow.peer_workload ? `/${flow.peer_workload}` : ""}` : "";
      return (
        <>
          {name} <span class={name ? "quiet" : ""}>{address(flow.remote)}</span>
          <Process name={processName(flow.peer_process)} whole={flow.peer_process} />
        </>
      );
    },
  },
  { head: "Service", short: true, cell: (flow) => service(flow.service, flow.service_name) },
  { head: "Verdict", cell: (flow) => <Badge kind={flow.verdict ?? ""}>{VERDICTS.find(([value]) => value === flow.verdict)?.[1]}</Badge> },
  { head: "Rule", short: true, cell: (flow) => (flow.rule ? <a href={href("/policy", { rule: flow.rule })}>{flow.rule}</a> : <span class="quiet">none</span>) },
  { head: "Flows", number: true, cell: (flow) => count(flow.flows) },
  { head: "Sent", number: true, cell: (flow) => bytes(flow.bytes_sent) },
  { head: "Received", number: true, cell: (flow) => bytes(flow.bytes_received) },
];

function Nothing({ searched }: { searched: boolean }): JSX.Element {
  return (
    <Empty title="No such flows">
      <p>
        {searched ? "Nothing in this time fits the search. Look at more time, or leave a field out. " : ""}
        Flows are those that hosts let pass; denied connections are under the verdict “denied”, and in a search for a process.
      </p>
      <p>On the command line:</p>
      <Command text="segctl flows --since 7d" />
    </Empty>
  );
}
