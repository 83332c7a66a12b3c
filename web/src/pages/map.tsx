// Who talks to whom: groups of hosts, what the policy says of each link, and what is behind it.
import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import type { PageProps } from "../app";
import { call } from "../api";
import { plural } from "../format";
import { useLoad } from "../load";
import { MapCanvas } from "../map/canvas";
import { Detail } from "../map/detail";
import { groupId, pictureOf, VERDICTS, VERDICT_TEXT, withKeys, withOpened, type MapNode } from "../map/model";
import { MapTable } from "../map/table";
import type { MapEdge, TagGroup } from "../messages";
import { setParams } from "../router";
import { bounds, spanOf, LENGTHS, type Span } from "../span";
import { Choice, Command, Empty, Failed, Loading } from "../ui/parts";
import { AtField, SpanField } from "../ui/spanbar";

const MOST_EDGES = 5000;
const EVERY_TAG = "every tag";
const MAIN_KEY = "app";
const BETWEEN = ";";

interface Asked {
  keys: string[];
  by: string[];
  coarse: MapEdge[];
  fine: MapEdge[];
  more: boolean;
}

async function load(by: string | null, open: readonly string[], span: Span, signal: AbortSignal): Promise<Asked> {
  const at = span.at === null ? {} : { at_us: String(span.at * 1000) };
  const asked = { ...bounds(span), ...at, limit: MOST_EDGES };
  const mapped = (key: string) => call("FlowMap", { ...asked, by: key === EVERY_TAG ? [] : key.split(",") }, signal);
  // Most fleets have the tag: the map is asked for before it is known.
  const guess = by ?? MAIN_KEY;
  const [policy, guessed] = await Promise.all([call("DescribePolicy", { ...at, parts: ["tags"] }, signal), mapped(guess)]);
  const keys = (policy.tags ?? []).map((tag) => tag.name ?? "");
  const key = by ?? (keys.includes(MAIN_KEY) ? MAIN_KEY : (keys[0] ?? EVERY_TAG));
  const wanted = key === EVERY_TAG ? [] : key.split(",");
  const found = key === guess ? guessed : await mapped(key);
  const coarse = withKeys(found.edges ?? [], wanted.length ? wanted : keys);
  const groups = new Map<string, TagGroup>();
  for (const edge of coarse)
    for (const group of [edge.source, edge.destination]) if (group && !group.outside) groups.set(groupId(group), group);
  const opened = open.flatMap((id) => groups.get(id) ?? []);
  const parts = await Promise.all(
    opened.flatMap((group) => [
      call("FlowMap", { ...asked, source: { tags: group.tags } }, signal),
      call("FlowMap", { ...asked, destination: { tags: group.tags } }, signal),
    ]),
  );
  const fine = withKeys(parts.flatMap((part) => part.edges ?? []), keys);
  return { keys, by: wanted, coarse, fine, more: found.more ?? false };
}

export function MapPage({ place }: PageProps): JSX.Element {
  const { params } = place;
  const span = spanOf(params);
  const open = (params.get("open") ?? "").split(BETWEEN).filter(Boolean);
  const asked = [params.get("by"), open.join(BETWEEN), span.length, span.at].join("|");
  const { data, error, loading, again } = useLoad(asked, (signal) => load(params.get("by"), open, span, signal));
  const picture = useMemo(() => {
    if (!data) return null;
    const opened = new Set(open);
    return pictureOf(withOpened(data.coarse, data.fine, opened), data.by, opened);
  }, [data]);
  const picked = params.get("pick") ?? "";
  const pick = (id: string) => setParams({ pick: id }, true);
  const toggle = (node: MapNode) => {
    const id = node.within ?? node.id;
    const rest = open.filter((one) => one !== id);
    setParams({ open: (rest.length < open.length ? rest : [...open, id]).join(BETWEEN), pick: "" });
  };
  const canOpen = (node: MapNode) => !node.group.outside && (data?.by.length ?? 0) > 0;
  const openById = (id: string) => {
    const node = picture?.nodes.find((one) => one.id === id);
    if (node && canOpen(node)) toggle(node);
  };
  return (
    <>
      <div class="title">
        <h1 tabIndex={-1}>Map</h1>
        <div class="tools">
          {data && (
            <Choice
              label="Group by"
              value={data.by.join(",") || EVERY_TAG}
              options={[...groupings(data.keys), [EVERY_TAG, EVERY_TAG] as const]}
              onChange={(by) => setParams({ by, open: "", pick: "" })}
            />
          )}
          <SpanField place={place} />
          <AtField place={place} />
        </div>
      </div>
      {error && <Failed error={error} again={again} />}
      {!data && loading && <Loading what="the map" />}
      {picture && picture.links.length === 0 && <Nothing span={span} />}
      {picture && picture.links.length > 0 && (
        <>
          <div class="map" aria-busy={loading}>
            <MapCanvas picture={picture} picked={picked} onPick={pick} onOpen={openById} />
            <Detail picture={picture} picked={picked} place={place} canOpen={canOpen} toggle={toggle} pick={pick} />
          </div>
          <Legend />
          {data?.more && <p class="note">Only the {plural(MOST_EDGES, "connection")} with most flows are shown. Look at less time, or group by one tag.</p>}
          <MapTable picture={picture} pick={pick} />
        </>
      )}
    </>
  );
}

/** Each key alone, then the first with each other one. */
function groupings(keys: readonly string[]): (readonly [string, string])[] {
  const main = keys.includes(MAIN_KEY) ? MAIN_KEY : keys[0];
  const pairs = keys.filter((key) => key !== main).map((key) => `${main},${key}`);
  return [...keys, ...pairs].map((one) => [one, one.replace(",", " and ")] as const);
}

function Legend(): JSX.Element {
  return (
    <ul class="legend" aria-label="What the colours of links say">
      {[...VERDICTS].reverse().map((verdict) => (
        <li key={verdict}>
          <span class={`line ${verdict}`} /> {VERDICT_TEXT[verdict]}
        </li>
      ))}
    </ul>
  );
}

function Nothing({ span }: { span: Span }): JSX.Element {
  return (
    <Empty title={`No flows in the last ${LENGTHS[span.length]!.text}${span.at === null ? "" : " before that moment"}`}>
      <p>
        The map draws itself from what enrolled hosts see. A host needs no policy for that: without one it observes, and drops
        nothing.
      </p>
      <ol>
        <li>
          Make a join token for a host, with its tags:
          <Command text="segctl token create --tag app=shop --tag role=web --out web.token" />
        </li>
        <li>
          Enrol the host with it, as root there:
          <Command text="segctl-agent enrol --token-file web.token --start" />
        </li>
        <li>Flows show some seconds after they begin. If there are hosts already, look at more time above.</li>
      </ol>
    </Empty>
  );
}

