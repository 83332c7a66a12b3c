// The map as a table: what the drawing shows, and more of it.
import type { JSX } from "preact";
import { count, groupText, num, plural, service } from "../format";
import type { MapEdge, MapReason } from "../messages";
import { Badge, When } from "../ui/parts";
import { Table, type Column } from "../ui/table";
import { edgeId, VERDICTS, verdictOf, verdictText, weight, type Picture, type Verdict } from "./model";

export function reasonText(reason: MapReason): string {
  const name = reason.rule ? ` ${reason.rule}` : "";
  const words = reason.reason === "default" ? "no rule" : `${reason.reason}${name}`;
  return reason.owner ? `${words} (${reason.owner})` : words;
}

/** What the policy says; of a connection that it judges in several ways, how many flows each. */
export function Verdicts({ edge }: { edge: MapEdge }): JSX.Element {
  const found = edge.verdicts ?? {};
  const counts: Record<Verdict, number> = {
    allowed: num(found.allowed),
    "not-covered": num(found.not_covered),
    "would-deny": num(found.would_deny),
    denied: num(found.denied) + num(edge.denied),
  };
  const several = VERDICTS.filter((verdict) => counts[verdict] > 0);
  if (several.length < 2) return <Badge kind={verdictOf(edge)}>{verdictText(verdictOf(edge), [edge])}</Badge>;
  return (
    <>
      {several.map((verdict) => (
        <Badge key={verdict} kind={verdict}>
          {count(counts[verdict])} {verdictText(verdict, [edge])}
        </Badge>
      ))}
    </>
  );
}

export function Reasons({ edge }: { edge: MapEdge }): JSX.Element {
  const texts = [...new Set((edge.reasons ?? []).map(reasonText))];
  return <>{texts.slice(0, 2).join("; ") + (texts.length > 2 ? `; ${texts.length - 2} more` : "")}</>;
}

export function MapTable({ picture, pick }: { picture: Picture; pick: (id: string) => void }): JSX.Element {
  const rows = picture.links.flatMap((link) => link.edges.map((edge) => ({ link, edge }))).sort((a, b) => weight(b.edge) - weight(a.edge));
  const columns: Column<(typeof rows)[number]>[] = [
    {
      head: "From",
      names: true,
      cell: ({ link, edge }) => (
        <button type="button" class="plain" onClick={() => pick(link.id)}>
          {groupText(edge.source)}
        </button>
      ),
    },
    { head: "To", cell: ({ edge }) => groupText(edge.destination) },
    { head: "Service", cell: ({ edge }) => service(edge.service, edge.service_name) },
    { head: "Policy says", cell: ({ edge }) => <Verdicts edge={edge} /> },
    { head: "By", cell: ({ edge }) => <Reasons edge={edge} /> },
    { head: "Flows", number: true, cell: ({ edge }) => count(edge.flows) },
    { head: "Denied", number: true, cell: ({ edge }) => count(edge.denied) },
    { head: "Last seen", cell: ({ edge }) => <When us={edge.last_seen_us} brief /> },
  ];
  const caption = `${plural(rows.length, "connection")} between ${plural(picture.nodes.length, "group")}, most flows first`;
  return <Table caption={caption} columns={columns} rows={rows} keyOf={({ edge }) => edgeId(edge)} />;
}
