// What was picked on the map: a group, or the link between two.
import type { JSX } from "preact";
import { count, groupText, num, plural, service } from "../format";
import type { MapEdge } from "../messages";
import { href, type Place } from "../router";
import { groupField, portText } from "../search";
import { carried } from "../span";
import { edgeId, verdictText, type MapLink, type MapNode, type Picture } from "./model";
import { Drill } from "./drill";
import { Reasons, Verdicts } from "./table";
import { Badge } from "../ui/parts";

export function Detail(props: {
  picture: Picture;
  picked: string;
  place: Place;
  canOpen: (node: MapNode) => boolean;
  toggle: (node: MapNode) => void;
  pick: (id: string) => void;
}): JSX.Element {
  const node = props.picture.nodes.find((one) => one.id === props.picked);
  const link = props.picture.links.find((one) => one.id === props.picked);
  return (
    <aside class="detail" aria-label="What is picked" aria-live="polite">
      {node && <NodeDetail {...props} node={node} />}
      {link && <LinkDetail {...props} link={link} />}
      {!node && !link && <Overview {...props} />}
    </aside>
  );
}

function Overview({ picture, pick }: { picture: Picture; pick: (id: string) => void }): JSX.Element {
  const strange = picture.links.filter((link) => link.verdict !== "allowed").sort((a, b) => b.flows - a.flows);
  return (
    <>
      <h2>{plural(picture.nodes.length, "group")}</h2>
      <p class="quiet">Pick a group or a link to see what is behind it; pick a group again to open it.</p>
      <label class="field">
        <span>Find a group</span>
        <select value="" onChange={(event) => pick(event.currentTarget.value)}>
          <option value="">…</option>
          {picture.nodes.map((node) => (
            <option key={node.id} value={node.id}>
              {groupText(node.group)}
            </option>
          ))}
        </select>
      </label>
      {strange.length > 0 && (
        <>
          <h3>Not allowed</h3>
          <Links links={strange.slice(0, 12)} pick={pick} />
        </>
      )}
    </>
  );
}

function Links({ links, pick }: { links: readonly MapLink[]; pick: (id: string) => void }): JSX.Element {
  return (
    <ul class="links">
      {links.map((link) => (
        <li key={link.id}>
          <button type="button" class="plain" onClick={() => pick(link.id)}>
            {link.id}
          </button>
          <Badge kind={link.verdict}>{verdictText(link.verdict, link.edges)}</Badge>
        </li>
      ))}
    </ul>
  );
}

function NodeDetail(props: {
  node: MapNode;
  picture: Picture;
  place: Place;
  canOpen: (node: MapNode) => boolean;
  toggle: (node: MapNode) => void;
  pick: (id: string) => void;
}): JSX.Element {
  const { node, picture, place, pick } = props;
  const byFlows = (a: MapLink, b: MapLink) => b.flows - a.flows;
  const out = picture.links.filter((link) => link.from === node.id).sort(byFlows);
  const into = picture.links.filter((link) => link.to === node.id && link.from !== node.id).sort(byFlows);
  return (
    <>
      <h2>{groupText(node.group)}</h2>
      {node.group.outside && <p class="quiet">Addresses that no enrolled host holds.</p>}
      <p class="actions">
        {props.canOpen(node) && (
          <button type="button" onClick={() => props.toggle(node)}>
            {node.within ? "Close the group" : "Open the group"}
          </button>
        )}
        {!node.group.outside && <a href={href("/hosts", { tags: groupField(node.group) })}>Its hosts</a>}
        {!node.group.outside && <a href={href("/flows", { ...carried(place), from: groupField(node.group) })}>Its flows</a>}
        <button type="button" class="plain" onClick={() => pick("")}>
          Show all
        </button>
      </p>
      {out.length > 0 && <h3>Talks to</h3>}
      <Links links={out} pick={pick} />
      {into.length > 0 && <h3>Is talked to by</h3>}
      <Links links={into} pick={pick} />
    </>
  );
}

function LinkDetail({ link, place, pick }: { link: MapLink; place: Place; pick: (id: string) => void }): JSX.Element {
  return (
    <>
      <h2>{link.id}</h2>
      <p class="actions">
        {[...new Set([link.from, link.to])].map((end) => (
          <button key={end} type="button" class="plain" onClick={() => pick(end)}>
            {end}
          </button>
        ))}
        <button type="button" class="plain" onClick={() => pick("")}>
          Show all
        </button>
      </p>
      <ul class="edges">
        {link.edges.map((edge) => (
          <li key={edgeId(edge)}>
            <b>{service(edge.service, edge.service_name)}</b> <Verdicts edge={edge} />
            <div>
              <Reasons edge={edge} />
            </div>
            <div class="quiet">
              {plural(num(edge.flows), "flow")}
              {num(edge.denied) > 0 && `, ${count(edge.denied)} denied`}
              <Compared edge={edge} />
            </div>
            <a href={flowsOf(edge, place)}>Single flows</a>
            <Drill edge={edge} place={place} />
          </li>
        ))}
      </ul>
    </>
  );
}

/** What the policy says and what the network did, where they differ. */
function Compared({ edge }: { edge: MapEdge }): JSX.Element {
  const { escaped, misdropped } = edge.comparison ?? {};
  return (
    <>
      {num(escaped) > 0 && <strong class="warn"> {count(escaped)} escaped: denied by the policy, and they passed</strong>}
      {num(misdropped) > 0 && <strong class="warn"> {count(misdropped)} misdropped: allowed, and they did not pass</strong>}
    </>
  );
}

function flowsOf(edge: MapEdge, place: Place): string {
  return href("/flows", {
    ...carried(place),
    from: groupField(edge.source),
    to: groupField(edge.destination),
    port: portText(edge.service),
  });
}
