// What is behind a link: the same flows by host, workload or process of both ends, or by network outside.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { call } from "../api";
import { count, num, plural, processName, service, tagText } from "../format";
import { useLoad } from "../load";
import type { MapEdge, TagGroup } from "../messages";
import type { Place } from "../router";
import { portOf, portText } from "../search";
import { bounds, spanOf } from "../span";
import { Choice, Failed, Loading } from "../ui/parts";
import { Verdicts } from "./table";

const MOST = 200;
const DETAILS: readonly (readonly [string, string])[] = [
  ["", "…"],
  ["host", "host"],
  ["workload", "workload"],
  ["process", "process"],
  ["network", "network"],
];

export function Drill({ edge, place }: { edge: MapEdge; place: Place }): JSX.Element {
  const [detail, setDetail] = useState("");
  return (
    <>
      <Choice label="Look closer, by" value={detail} options={DETAILS} onChange={setDetail} />
      {detail && <Closer edge={edge} place={place} detail={detail} />}
    </>
  );
}

function Closer({ edge, place, detail }: { edge: MapEdge; place: Place; detail: string }): JSX.Element {
  const span = spanOf(place.params);
  const request = {
    ...bounds(span),
    ...(span.at === null ? {} : { at_us: String(span.at * 1000) }),
    source: edge.source,
    destination: edge.destination,
    ...portOf(portText(edge.service)).value,
    detail,
    limit: MOST,
  };
  const { data, error, again } = useLoad(`${detail} ${place.params}`, (signal) => call("FlowMap", request, signal));
  if (error) return <Failed error={error} again={again} />;
  if (!data) return <Loading what="what is behind it" />;
  const edges = data.edges ?? [];
  return (
    <ul class="edges">
      {edges.map((one) => (
        <li key={`${closeText(one.source)} ${closeText(one.destination)} ${service(one.service)}`}>
          <b>{closeText(one.source)}</b> → <b>{closeText(one.destination)}</b>
          <div>
            {plural(num(one.flows), "flow")}
            {num(one.denied) > 0 && `, ${count(one.denied)} denied`} <Verdicts edge={one} />
          </div>
        </li>
      ))}
      {edges.length === 0 && <li class="quiet">Nothing was told so closely.</li>}
      {data.more && <li class="quiet">Only the {MOST} with most flows are shown.</li>}
    </ul>
  );
}

/** As close as the end was told. */
function closeText(group: TagGroup | undefined): string {
  if (!group) return "";
  if (group.outside) return [group.peer, group.network].filter(Boolean).join(" ") || "outside";
  const place = [group.host, group.workload].filter(Boolean).join("/");
  return [place || tagText(group.tags), processName(group.process)].filter(Boolean).join(" ");
}
