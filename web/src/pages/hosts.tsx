// The hosts: what each enforces, what its kernel holds, what is wrong and what to do about it.
import type { JSX } from "preact";
import { call } from "../api";
import type { PageProps } from "../app";
import { address, count, num, plural, tagText } from "../format";
import { useLoad } from "../load";
import type { HostStatus, StatusReply } from "../messages";
import { href, setParams } from "../router";
import { tagsOf } from "../search";
import { Badge, Choice, Command, Empty, Failed, Field, Loading, When } from "../ui/parts";
import { Table, type Column } from "../ui/table";

const MODES = ["enforce", "test", "observe"] as const;
const STATES = ["in-sync", "pending", "refused", "released", "offline", "never-connected"];

export function HostsPage({ place }: PageProps): JSX.Element {
  const { params } = place;
  const { data, error, loading, again } = useLoad("hosts", (signal) => call("Status", {}, signal));
  const search = (event: SubmitEvent) => {
    event.preventDefault();
    const found = new FormData(event.currentTarget as HTMLFormElement);
    setParams({ name: String(found.get("name")).trim(), tags: String(found.get("tags")).trim() });
  };
  const tags = tagsOf(params.get("tags") ?? "");
  const hosts = data ? matching(data.hosts ?? [], params, Object.entries(tags.value ?? {})) : [];
  return (
    <>
      <div class="title">
        <h1 tabIndex={-1}>Hosts</h1>
        <button type="button" onClick={again}>
          Look again
        </button>
      </div>
      {error && <Failed error={error} again={again} />}
      {!data && loading && <Loading what="hosts" />}
      {data && <Summary status={data} />}
      {data && (data.hosts ?? []).length === 0 && <Nothing />}
      {data && (data.hosts ?? []).length > 0 && (
        <>
          <form class="filters" role="search" aria-label="Filter hosts" onSubmit={search} key={params.toString()}>
            <Field label="Name or address" name="name" value={params.get("name") ?? ""} placeholder="web1" />
            <Field label="Tags" name="tags" value={params.get("tags") ?? ""} placeholder="app=shop, env=prod" wrong={tags.wrong} />
            <Choice
              label="State"
              value={params.get("state") ?? ""}
              options={[["", "any"], ["ill", "with a problem"], ...STATES.map((state) => [state, state] as const)]}
              onChange={(state) => setParams({ state })}
            />
            <button type="submit" class="primary">
              Filter
            </button>
          </form>
          {!tags.wrong && hosts.length === 0 && <p class="note">No host fits this filter.</p>}
          {!tags.wrong && hosts.length > 0 && (
            <Table
              key={params.toString()}
              caption={`${count(hosts.length)} of ${plural((data.hosts ?? []).length, "host")}`}
              columns={columnsFor(num(data.active?.number))}
              rows={hosts}
              keyOf={(host) => host.name ?? ""}
              more={(host) => <More host={host} />}
              opened={hosts.length === 1 ? hosts[0]!.name : undefined}
            />
          )}
        </>
      )}
    </>
  );
}

function matching(hosts: readonly HostStatus[], params: URLSearchParams, tags: readonly (readonly [string, string])[]): HostStatus[] {
  const name = (params.get("name") ?? "").toLowerCase();
  const state = params.get("state") ?? "";
  return hosts.filter(
    (host) =>
      (!name || host.name?.toLowerCase().includes(name) || host.addresses?.includes(name)) &&
      tags.every(([key, value]) => (host.tags?.[key] ?? "") === value) &&
      (!state || (state === "ill" ? (host.troubles ?? []).length > 0 : host.state === state)),
  );
}

function Summary({ status }: { status: StatusReply }): JSX.Element {
  const { active, trial } = status;
  return (
    <p class="summary">
      {active ? (
        <>
          Generation <a href="/history">{String(active.number)}</a> is in force, pushed by {active.author} <When us={active.created_us} brief />.
        </>
      ) : (
        "No policy was pushed yet: every host observes."
      )}
      {trial && (
        <>
          {" "}
          <Badge kind="would-deny">
            generation {String(trial.generation?.number)} is on trial: {trial.phase?.name}
          </Badge>
        </>
      )}
    </p>
  );
}

/** "enforce", or how many workloads have which mode. */
export function modeText(host: HostStatus): string {
  const modes = (host.workloads ?? []).map((workload) => workload.mode ?? "");
  const used = MODES.filter((mode) => modes.includes(mode));
  if (used.length === 1) return used[0]!;
  return used.map((mode) => `${modes.filter((one) => one === mode).length} ${mode}`).join(", ");
}

function columnsFor(active: number): readonly Column<HostStatus>[] {
  return [
    { head: "Host", names: true, cell: (host) => host.name },
    { head: "Tags", cell: (host) => tagText(host.tags) },
    { head: "State", cell: (host) => <Badge kind={host.state ?? ""}>{host.state}</Badge> },
    { head: "Mode", cell: (host) => modeText(host) || <span class="quiet">enforces nothing</span> },
    {
      head: "In the kernel",
      cell: (host) => {
        const held = num(host.kernel_generation);
        if (!held) return <span class="quiet">nothing</span>;
        return held === active ? `generation ${held}` : <Badge kind="would-deny">generation {held}</Badge>;
      },
    },
    { head: "Seen", cell: (host) => (host.connected ? "connected" : <When us={host.last_seen_us} brief />) },
    {
      head: "Problems",
      cell: (host) => ((host.troubles ?? []).length ? <Badge kind="denied">{plural(host.troubles!.length, "problem")}</Badge> : ""),
    },
  ];
}

function More({ host }: { host: HostStatus }): JSX.Element {
  const troubles = host.troubles ?? [];
  return (
    <div class="facts">
      <div>
        {troubles.length > 0 && (
          <>
            <h3>Problems</h3>
            {troubles.map((trouble) => (
              <div key={trouble.text}>
                <p>{trouble.text}</p>
                {trouble.next && <p class="quiet">What to do: {trouble.next}.</p>}
              </div>
            ))}
          </>
        )}
        <h3>Workloads</h3>
        <ul class="plainlist">
          {(host.workloads ?? []).map((workload) => (
            <li key={workload.name}>
              <b>{workload.name}</b> <Badge kind={workload.mode ?? ""}>{workload.mode || "enforces nothing"}</Badge>{" "}
              <span class="quiet">{[workload.process, workload.strength].filter(Boolean).join(", ")}</span>
              {workload.why && <div class="quiet">{workload.why}</div>}
            </li>
          ))}
        </ul>
      </div>
      <div>
        <dl>
          <dt>Addresses</dt>
          <dd>{(host.addresses ?? []).join(", ") || "none"}</dd>
          <dt>Agent</dt>
          <dd>
            {host.agent_version} on Linux {host.kernel}
          </dd>
          <dt>Table</dt>
          <dd>{host.table_guard || "unknown"}</dd>
          <dt>Listens on</dt>
          <dd>
            {(host.listeners ?? []).length === 0 && "nothing that it told"}
            <ul class="plainlist">
              {(host.listeners ?? []).slice(0, 50).map((one, n) => (
                <li key={n}>
                  {one.protocol}/{one.port} {one.workload} <span class="quiet">{[one.process, address(one.address)].filter(Boolean).join(" on ")}</span>
                </li>
              ))}
            </ul>
          </dd>
        </dl>
        <p class="actions">
          <a href={href("/flows", { host: host.name })}>Its flows</a>
          <a href={href("/denials", { host: host.name })}>Its denials</a>
        </p>
      </div>
    </div>
  );
}

function Nothing(): JSX.Element {
  return (
    <Empty title="No host is enrolled yet">
      <p>A new host drops nothing: it observes, until a policy says otherwise. An administrator makes a token with the host's tags:</p>
      <Command text="segctl token create --tag app=shop --tag role=web --out web.token" />
      <p>and on the host, as root:</p>
      <Command text="segctl-agent enrol --token-file web.token --start" />
    </Empty>
  );
}
