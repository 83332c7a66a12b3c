// What was in force when, who pushed it, and what became of it.
import type { JSX } from "preact";
import { call } from "../api";
import type { PageProps } from "../app";
import { num, plural } from "../format";
import { useLoad } from "../load";
import type { Generation } from "../messages";
import { href } from "../router";
import { Badge, Command, Empty, Failed, Loading, When } from "../ui/parts";
import { Table, type Column } from "../ui/table";

const MOST = 500;
const KIND: Record<string, string> = { confirmed: "allowed", trial: "would-deny", undone: "denied" };

interface Row {
  generation: Generation;
  /** When the next one came into force, in Unix microseconds; null: it is in force. */
  until: number | null;
}

function rowsOf(generations: readonly Generation[]): Row[] {
  let until: number | null = null;
  return generations.map((generation) => {
    const row = { generation, until };
    if (generation.state === "confirmed") until = num(generation.created_us);
    return row;
  });
}

export function HistoryPage(_: PageProps): JSX.Element {
  const { data, error, loading, again } = useLoad("history", (signal) => call("History", { limit: MOST }, signal));
  const rows = rowsOf(data?.generations ?? []);
  return (
    <>
      <div class="title">
        <h1 tabIndex={-1}>History</h1>
      </div>
      <p class="summary quiet">Every policy that was pushed. Look at one, or at the map of the last day of its reign.</p>
      {error && <Failed error={error} again={again} />}
      {!data && loading && <Loading what="the history" />}
      {data && rows.length === 0 && (
        <Empty title="Nothing was pushed yet">
          <p>Each push is kept here with its author, its message and what became of it. The first one:</p>
          <Command text="segctl push policy/ -m 'the first policy'" />
        </Empty>
      )}
      {rows.length > 0 && (
        <Table caption={`${plural(rows.length, "generation")}, the newest first`} columns={COLUMNS} rows={rows} keyOf={({ generation }) => String(generation.number)} />
      )}
    </>
  );
}

const COLUMNS: readonly Column<Row>[] = [
  { head: "Generation", names: true, cell: ({ generation }) => String(generation.number) },
  { head: "Pushed (UTC)", cell: ({ generation }) => <When us={generation.created_us} /> },
  { head: "By", cell: ({ generation }) => generation.author },
  {
    head: "Message",
    cell: ({ generation }) => (
      <>
        {generation.message}
        {num(generation.rollback_of) > 0 && <span class="quiet"> rollback of {String(generation.rollback_of)}</span>}
        {generation.why && <div class="quiet">{generation.why}</div>}
      </>
    ),
  },
  {
    head: "State",
    cell: ({ generation }) => <Badge kind={KIND[generation.state ?? ""] ?? ""}>{generation.active ? "in force" : generation.state}</Badge>,
  },
  { head: "Policy", cell: ({ generation }) => <a href={href("/policy", { generation: String(generation.number) })}>Policy {String(generation.number)}</a> },
  {
    head: "Map",
    cell: ({ generation, until }) =>
      generation.state === "confirmed" && (
        <a href={href("/map", { at: until === null ? "" : new Date(until / 1000).toISOString().slice(0, 19) + "Z" })}>
          {until === null ? "Map now" : "Map then"}
        </a>
      ),
  },
];
