// Denied connections as they happen: by which process, to whom, why, and the rule that would allow it.
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, stream } from "../api";
import type { PageProps } from "../app";
import { address, count, num, plural, service, tagText } from "../format";
import type { DeniedConnection } from "../messages";
import { setParams } from "../router";
import { Badge, Command, Empty, Field, Loading, Process, When } from "../ui/parts";
import { Table, type Column } from "../ui/table";

const KEPT = 1000;
const AT_FIRST = 200;
const RETRY_MS = [1000, 2000, 5000, 10000, 30000];
const SPOKEN_MS = 2500;
/** Codes after which asking again would be refused again. */
const FINAL = ["UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT"];

type State = "connecting" | "live" | "ended";

interface Following {
  rows: DeniedConnection[];
  lost: number;
  state: State;
  why: string;
}

const NOTHING: Following = { rows: [], lost: 0, state: "connecting", why: "" };

/** The newest first, one row for each that is counted together. */
function withNewer(rows: readonly DeniedConnection[], newer: readonly DeniedConnection[]): DeniedConnection[] {
  const byId = new Map(rows.map((row) => [row.id, row]));
  for (const row of newer) byId.set(row.id, row);
  return [...byId.values()].sort((a, b) => num(b.denial?.last_seen_us) - num(a.denial?.last_seen_us)).slice(0, KEPT);
}

function useDenials(host: string, workload: string): Following {
  const [found, setFound] = useState<Following>(NOTHING);
  useEffect(() => {
    const ending = new AbortController();
    let waiting: DeniedConnection[] = [];
    let lost = 0;
    // Drawn at most every frame or so, however many come.
    const show = () => {
      if (waiting.length === 0 && lost === 0) return;
      const [rows, more] = [waiting, lost];
      [waiting, lost] = [[], 0];
      setFound((before) => ({ ...before, rows: withNewer(before.rows, rows), lost: before.lost + more }));
    };
    const drawing = setInterval(show, 100);
    const follow = async () => {
      for (let tries = 0; !ending.signal.aborted; tries++) {
        try {
          setFound((before) => ({ ...before, state: "connecting" }));
          for await (const message of stream("Denied", { follow: true, limit: AT_FIRST, host, workload }, ending.signal, () => {
            tries = 0;
            setFound((before) => ({ ...before, state: "live", why: "", lost: 0 }));
          })) {
            if (message.connection) waiting.push(message.connection);
            lost += num(message.lost);
          }
        } catch (error) {
          if (ending.signal.aborted) return;
          const told = error instanceof ApiError ? error : new ApiError("INTERNAL", String(error));
          setFound((before) => ({ ...before, state: "ended", why: told.message }));
          if (FINAL.includes(told.code)) return;
        }
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS[Math.min(tries, RETRY_MS.length - 1)]));
      }
    };
    setFound(NOTHING);
    void follow();
    return () => {
      ending.abort();
      clearInterval(drawing);
    };
  }, [host, workload]);
  return found;
}

export function DenialsPage({ place }: PageProps): JSX.Element {
  const host = place.params.get("host") ?? "";
  const workload = place.params.get("workload") ?? "";
  const following = useDenials(host, workload);
  const [held, setHeld] = useState<DeniedConnection[] | null>(null);
  const rows = held ?? following.rows;
  const search = (event: SubmitEvent) => {
    event.preventDefault();
    const found = new FormData(event.currentTarget as HTMLFormElement);
    setParams({ host: String(found.get("host")).trim(), workload: String(found.get("workload")).trim() });
  };
  const words = { connecting: "Connecting …", live: "Live", ended: "Not connected, trying again" }[following.state];
  return (
    <>
      <div class="title">
        <h1 tabIndex={-1}>Denials</h1>
        <p class={`live ${following.state}`}>
          <span class="dot" aria-hidden="true" /> {words}
        </p>
      </div>
      <form class="filters" role="search" aria-label="Filter denials" onSubmit={search} key={`${host} ${workload}`}>
        <Field label="Host" name="host" value={host} placeholder="web1" />
        <Field label="Workload" name="workload" value={workload} placeholder="shop-web" />
        <button type="submit" class="primary">
          Filter
        </button>
        <button type="button" aria-pressed={held !== null} onClick={() => setHeld(held ? null : following.rows)}>
          {held ? "Go on" : "Hold still"}
        </button>
      </form>
      {following.why && <p class="error">{following.why}</p>}
      <Spoken rows={following.rows} />
      {following.state === "connecting" && rows.length === 0 && <Loading what="denials" />}
      {following.state === "live" && rows.length === 0 && <Nothing />}
      {rows.length > 0 && (
        <Table
          caption={`${plural(rows.length, "denied connection")}, the newest first`}
          columns={COLUMNS}
          rows={rows}
          keyOf={(row) => String(row.id)}
          more={(row) => <More row={row} />}
        />
      )}
      {following.lost > 0 && <p class="note">{count(following.lost)} more were denied and counted, but not described: too many at once.</p>}
    </>
  );
}

/** What came, for screen readers: in one sentence every few seconds, not row by row. */
function Spoken({ rows }: { rows: readonly DeniedConnection[] }): JSX.Element {
  const [text, setText] = useState("");
  const told = useRef<Map<string, number> | null>(null);
  const now = useRef(rows);
  now.current = rows;
  useEffect(() => {
    const speak = setInterval(() => {
      const counts = new Map(now.current.map((row) => [String(row.id), num(row.denial?.count)]));
      const fresh = told.current && now.current.filter((row) => told.current!.get(String(row.id)) !== num(row.denial?.count));
      told.current = counts;
      const newest = fresh?.[0];
      if (!newest) return;
      setText(`${plural(fresh.length, "denial")}: newest from ${newest.host} to ${peerText(newest)}, ${service(newest.denial?.service, newest.service_name)}`);
    }, SPOKEN_MS);
    return () => clearInterval(speak);
  }, []);
  return (
    <p class="unseen" aria-live="polite" role="log">
      {text}
    </p>
  );
}

export function peerText(row: DeniedConnection): string {
  const held = row.peer_host ? `${row.peer_host}${row.peer_workload ? `/${row.peer_workload}` : ""}` : "";
  return held || address(row.denial?.remote);
}

function processText(row: DeniedConnection): string {
  const process = row.denial?.process;
  const exe = process?.exe?.split("/").pop();
  return exe || process?.unit || row.denial?.process_unknown || "";
}

const COLUMNS: readonly Column<DeniedConnection>[] = [
  { head: "Last seen (UTC)", cell: (row) => <When us={row.denial?.last_seen_us} /> },
  {
    head: "Workload",
    names: true,
    cell: (row) => (
      <>
        {row.host}/{row.denial?.workload || "unknown"}
        <Process name={processText(row)} whole={row.denial?.process?.exe} />
      </>
    ),
  },
  { head: "Way", short: true, cell: (row) => (row.denial?.ingress ? "← in" : "→ out") },
  {
    head: "Peer",
    cell: (row) => (
      <>
        {peerText(row)} {row.peer_host && <span class="quiet">{address(row.denial?.remote)}</span>}
      </>
    ),
  },
  { head: "Service", short: true, cell: (row) => service(row.denial?.service, row.service_name) },
  {
    head: "Why",
    cell: (row) => (
      <Badge kind={row.denial?.verdict ?? ""}>
        {row.denial?.verdict === "would-deny" ? "test: " : ""}
        {row.reason === "boundary" ? `boundary ${row.rule}` : "no rule"}
      </Badge>
    ),
  },
  { head: "Count", number: true, cell: (row) => count(row.denial?.count) },
];

function More({ row }: { row: DeniedConnection }): JSX.Element {
  const process = row.denial?.process;
  const facts: [string, string | undefined][] = [
    ["Program", process?.exe],
    ["Command", process?.command],
    ["User", process?.user],
    ["Unit", process?.unit],
    ["Process unknown", row.denial?.process_unknown],
    ["Tags", tagText(row.tags)],
    ["Peer's tags", tagText(row.peer_tags)],
    ["Generation", row.denial?.generation === undefined ? "" : String(row.denial.generation)],
  ];
  const here = `${row.host}/${row.denial?.workload}`;
  const there = row.peer_host ? `${row.peer_host}/${row.peer_workload || "host"}` : address(row.denial?.remote);
  const [from, to] = row.denial?.ingress ? [there, here] : [here, there];
  return (
    <div class="facts">
      <dl>
        {facts.flatMap(([name, value]) => (value ? [<dt key={name}>{name}</dt>, <dd key={`${name} value`}>{value}</dd>] : []))}
        <dt>First seen</dt>
        <dd>
          <When us={row.denial?.first_seen_us} /> UTC
        </dd>
      </dl>
      <div>
        <h3>Why, by policy and kernel</h3>
        <Command text={`segctl explain ${from} ${to} ${service(row.denial?.service)}`} />
        {row.suggestion && (
          <>
            <h3>What would allow it, for review</h3>
            <Command text={row.suggestion.trimEnd()} />
          </>
        )}
      </div>
    </div>
  );
}

function Nothing(): JSX.Element {
  return (
    <Empty title="Nothing was denied">
      <p>
        Connections show here within a second of being denied, with the process that made them. In the mode <b>test</b> they are
        let through and show as well. Nothing is denied while every workload only observes.
      </p>
      <p>To see what a workload would lose before it does, put it in the mode test: in the policy,</p>
      <Command text={"modes:\n  - {select: {app: shop}, mode: test}"} />
    </Empty>
  );
}
