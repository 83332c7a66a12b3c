// Rules for what was observed and no rule permits: each with its evidence and its excess, for a person to decide.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { call } from "../api";
import type { PageProps } from "../app";
import { moment, num, plural } from "../format";
import { useLoad, type Loaded } from "../load";
import type { ListDecisionsReply, SuggestReply, SuggestionDecision } from "../messages";
import { setParams } from "../router";
import { SuggestionCard } from "../suggest/card";
import { decide } from "../suggest/decide";
import { OBSERVED, observedKey } from "../suggest/observed";
import { Badge, Choice, Command, Empty, Failed, Loading, When } from "../ui/parts";
import { Table, type Column } from "../ui/table";

const DAY_US = 86400e6;
const WINDOWS: readonly (readonly [string, string])[] = [
  ["7", "last 7 days"],
  ["28", "last 4 weeks"],
  ["60", "last 60 days"],
];
const DECIDERS = ["owner", "editor", "admin"];
const KIND: Record<string, string> = { accepted: "allowed", edited: "allowed", rejected: "denied" };

interface Asked {
  found: SuggestReply;
  decided: ListDecisionsReply;
}

export function SuggestionsPage({ place, who }: PageProps): JSX.Element {
  const days = WINDOWS.some(([value]) => value === place.params.get("days")) ? place.params.get("days")! : "28";
  const asked = useLoad<Asked>(days, async (signal) => {
    const since_us = String(Date.now() * 1000 - Number(days) * DAY_US);
    const [found, decided] = await Promise.all([call("Suggest", { since_us }, signal), call("ListDecisions", {}, signal)]);
    return { found, decided };
  });
  const { data, error, loading, again } = asked;
  return (
    <>
      <div class="title">
        <h1 tabIndex={-1}>Suggestions</h1>
        <div class="tools">
          <Choice label="Observed in" value={days} options={WINDOWS} onChange={(value) => setParams({ days: value })} />
        </div>
      </div>
      {error && <Failed error={error} again={again} />}
      {!data && loading && <Loading what="suggestions; of a large fleet that takes a while" />}
      {data && <Shown asked={asked} canDecide={DECIDERS.includes(who.role ?? "")} />}
    </>
  );
}

function Shown({ asked, canDecide }: { asked: Loaded<Asked>; canDecide: boolean }): JSX.Element {
  const { found, decided } = asked.data!;
  const suggestions = found.suggestions ?? [];
  const decisions = decided.decisions ?? [];
  const permitted = num(found.permitted_flows);
  const waiting = suggestions.filter((one) => one.decision);
  return (
    <div aria-busy={asked.loading}>
      <p class="summary">
        From {moment(found.since_us).slice(0, 10)} to {moment(found.until_us).slice(0, 10)}:{" "}
        {suggestions.length > 0 ? `${plural(suggestions.length, "rule")} would explain what no rule permits yet` : "no rule is suggested"}
        {permitted > 0 && `; ${plural(permitted, "flow")} ${permitted === 1 ? "is" : "are"} permitted already`}.{" "}
        <span class="quiet">Nothing here changes the policy: what you accept becomes text for your policy's files, and a push by a person.</span>
      </p>
      {suggestions.length === 0 && <Nothing seen={permitted > 0 || (found.left_out ?? []).length > 0} />}
      {waiting.length > 0 && <Waiting rules={waiting.map((one) => one.name ?? "")} />}
      <div class="stack">
        {suggestions.map((one) => (
          <SuggestionCard key={one.id} one={one} byHour={found.by_hour ?? false} canDecide={canDecide} waiting={waiting} decided={asked.again} />
        ))}
      </div>
      {found.more && <p class="note">There were more kinds of flows than are looked at: decide these, then look again.</p>}
      <LeftOut found={found} />
      {decisions.length > 0 && <Decisions decisions={decisions} canDecide={canDecide} again={asked.again} />}
    </div>
  );
}

function Waiting({ rules }: { rules: readonly string[] }): JSX.Element {
  return (
    <section class="notice" aria-label="Accepted, and not in force yet">
      <p>
        <b>Accepted, and not in force yet:</b> {rules.join(", ")}. Put the text into a file of the policy and push it before you accept the
        next suggestion, which then leaves out what the policy has.
      </p>
      <Command text="segctl push policy/" />
    </section>
  );
}

function LeftOut({ found }: { found: SuggestReply }): JSX.Element | null {
  const groups = found.left_out ?? [];
  if (groups.length === 0) return null;
  return (
    <>
      <h2>Left out</h2>
      <p class="quiet">Flows that no rule is made of, and why.</p>
      {groups.map((group) => (
        <details key={group.reason}>
          <summary>
            <b>{group.reason}</b>: {plural(num(group.flows), "flow")}
          </summary>
          <p>{group.why}</p>
          <Table caption="Those with most flows" columns={OBSERVED} rows={group.observations ?? []} keyOf={observedKey} />
        </details>
      ))}
    </>
  );
}

function Decisions(props: { decisions: readonly SuggestionDecision[]; canDecide: boolean; again: () => void }): JSX.Element {
  const columns: Column<SuggestionDecision>[] = [
    { head: "Rule", names: true, cell: (one) => one.rule },
    { head: "Decision", cell: (one) => <Badge kind={KIND[one.verdict ?? ""] ?? ""}>{one.verdict}</Badge> },
    { head: "By", cell: (one) => one.actor },
    { head: "When (UTC)", cell: (one) => <When us={one.at_us} /> },
    { head: "Reason", cell: (one) => one.reason },
  ];
  return (
    <>
      <h2>Decided</h2>
      <Table
        caption="What was decided is remembered, and shapes later suggestions"
        columns={columns}
        rows={props.decisions}
        keyOf={(one) => one.id ?? ""}
        more={(one) => <Decided one={one} {...props} />}
      />
    </>
  );
}

function Decided({ one, canDecide, again }: { one: SuggestionDecision; canDecide: boolean; again: () => void }): JSX.Element {
  const [error, setError] = useState("");
  const forget = async () => setError(await decide({ id: one.id, verdict: "forgotten" }, again));
  return (
    <div>
      {one.verdict === "rejected" ? <p>It is not suggested again while this is remembered.</p> : <h3>For a file of the policy</h3>}
      <Command text={(one.decided || one.suggested || "").trimEnd()} />
      {error && (
        <p class="error" role="alert">
          {error}
        </p>
      )}
      {canDecide && (
        <button type="button" onClick={forget}>
          Forget the decision
        </button>
      )}
    </div>
  );
}

function Nothing({ seen }: { seen: boolean }): JSX.Element {
  return seen ? (
    <Empty title="Nothing to suggest">
      <p>What was observed in this time is permitted already, decided, or left out below. Look at more time, or see what is ready to enforce:</p>
      <Command text="segctl enforce --ready" />
    </Empty>
  ) : (
    <Empty title="Nothing was observed yet">
      <p>Rules are made of flows that enrolled hosts saw. Let them observe for some days, a month for monthly jobs. On the command line:</p>
      <Command text="segctl suggest" />
    </Empty>
  );
}
