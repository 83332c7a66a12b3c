// From the edges that the controller gives to what is drawn: groups, some of them opened, and one link between two.
import type { MapEdge, TagGroup } from "../messages";
import { groupText, num, service } from "../format";

export const VERDICTS = ["denied", "would-deny", "not-covered", "allowed"] as const;
/** The strictest first. */
export type Verdict = (typeof VERDICTS)[number];

export const VERDICT_TEXT: Record<Verdict, string> = {
  denied: "denied",
  "would-deny": "would be denied",
  "not-covered": "not covered",
  allowed: "allowed",
};

/** Of connections with that verdict. What a boundary denies in the mode observe is no gap in the policy. */
export function verdictText(verdict: Verdict, edges: readonly MapEdge[]): string {
  const said = edges.flatMap((edge) => edge.reasons ?? []).filter((reason) => reason.verdict === verdict);
  const bounded = verdict === "not-covered" && said.length > 0 && said.every((reason) => reason.reason === "boundary");
  return bounded ? "denied, only observed" : VERDICT_TEXT[verdict];
}

export interface MapNode {
  id: string;
  group: TagGroup;
  text: string;
  flows: number;
  /** The opened group that it is a part of. */
  within?: string;
}

/** All connections from one group to another. */
export interface MapLink {
  id: string;
  from: string;
  to: string;
  flows: number;
  verdict: Verdict;
  edges: MapEdge[];
}

export interface Picture {
  nodes: MapNode[];
  links: MapLink[];
}

export function groupId(group: TagGroup | undefined): string {
  return groupText(group);
}

export const linkId = (from: string, to: string): string => `${from} → ${to}`;

export function verdictOf(edge: MapEdge): Verdict {
  return (VERDICTS as readonly string[]).includes(edge.verdict ?? "") ? (edge.verdict as Verdict) : "not-covered";
}

/** Flows and denied connections. */
export const weight = (edge: MapEdge): number => num(edge.flows) + num(edge.denied);

/** `by`: the tag keys that make groups; empty: all. `open`: ids of groups that are shown in full. */
export function pictureOf(edges: readonly MapEdge[], by: readonly string[], open: ReadonlySet<string>): Picture {
  const nodes = new Map<string, MapNode>();
  const links = new Map<string, MapLink>();
  const place = (group: TagGroup | undefined, flows: number): string => {
    const { shown, within } = shownGroup(group ?? {}, by, open);
    const id = groupId(shown);
    const known = nodes.get(id);
    if (known) known.flows += flows;
    else nodes.set(id, { id, group: shown, text: label(shown), flows, within });
    return id;
  };
  for (const edge of edges) {
    const flows = weight(edge);
    const from = place(edge.source, flows);
    const to = place(edge.destination, flows);
    const id = linkId(from, to);
    const link = links.get(id) ?? { id, from, to, flows: 0, verdict: "allowed" as Verdict, edges: [] };
    links.set(id, link);
    link.flows += flows;
    link.edges.push(edge);
    if (VERDICTS.indexOf(verdictOf(edge)) < VERDICTS.indexOf(link.verdict)) link.verdict = verdictOf(edge);
  }
  const byId = (a: { id: string }, b: { id: string }) => (a.id < b.id ? -1 : 1);
  return { nodes: [...nodes.values()].sort(byId), links: [...links.values()].sort(byId) };
}

function shownGroup(group: TagGroup, by: readonly string[], open: ReadonlySet<string>): { shown: TagGroup; within?: string } {
  if (group.outside || by.length === 0) return { shown: group };
  const coarse = coarsened(group, by);
  const id = groupId(coarse);
  return open.has(id) ? { shown: group, within: id } : { shown: coarse };
}

/** Groups say which of the keys their hosts do not have: an edge then stands for these hosts and no others. */
export function withKeys(edges: readonly MapEdge[], keys: readonly string[]): MapEdge[] {
  const none = Object.fromEntries(keys.map((key) => [key, ""]));
  const whole = (group: TagGroup | undefined): TagGroup => (group?.outside ? group : { ...group, tags: { ...none, ...group?.tags } });
  return edges.map((edge) => ({ ...edge, source: whole(edge.source), destination: whole(edge.destination) }));
}

/** By some tag keys only. */
export function coarsened(group: TagGroup, by: readonly string[]): TagGroup {
  const tags = Object.entries(group.tags ?? {}).filter(([key]) => by.includes(key));
  return { tags: Object.fromEntries(tags) };
}

function label(group: TagGroup): string {
  if (group.outside) return group.peer || "outside";
  const values = Object.entries(group.tags ?? {})
    .filter(([, value]) => value)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([, value]) => value);
  return values.join(" · ") || groupText(group);
}

/** Edges of the groups that are not opened, and the finer ones of those that are, each once. */
export function withOpened(coarse: readonly MapEdge[], fine: readonly MapEdge[], open: ReadonlySet<string>): MapEdge[] {
  const closed = coarse.filter((edge) => !open.has(groupId(edge.source)) && !open.has(groupId(edge.destination)));
  const once = new Map(fine.map((edge) => [edgeId(edge), edge]));
  return [...closed, ...once.values()];
}

export function edgeId(edge: MapEdge): string {
  return `${linkId(groupId(edge.source), groupId(edge.destination))} ${service(edge.service)}`;
}
