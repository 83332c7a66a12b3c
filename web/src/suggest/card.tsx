// One suggestion: the rule, what it explains, what else it would permit, and the decision.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { ago, count, num, plural } from "../format";
import type { RuleSuggestion } from "../messages";
import { Badge, Command } from "../ui/parts";
import { Table } from "../ui/table";
import { decide } from "./decide";
import { OBSERVED, observedKey } from "./observed";
import { shared } from "./shared";

const CONFIDENCE: Record<string, string> = { high: "allowed", medium: "would-deny", low: "denied" };

export function SuggestionCard(props: {
  one: RuleSuggestion;
  /** Sightings are hours, else days. */
  byHour: boolean;
  canDecide: boolean;
  /** Those that were accepted and are not in force yet. */
  waiting: readonly RuleSuggestion[];
  decided: () => void;
}): JSX.Element {
  const { one } = props;
  const within = (one.within ?? []).length ? ` within the same ${one.within!.join(" and ")}` : "";
  return (
    <section class="card" aria-label={`Suggestion ${one.name}`}>
      <h2>{one.name}</h2>
      <p>
        <b>{one.source}</b> → <b>{one.destination}</b>: {(one.services ?? []).join(", ")}
        {within}
      </p>
      <p>
        <Badge kind={CONFIDENCE[one.confidence ?? ""] ?? ""}>{one.confidence} confidence</Badge> <Badge kind="">{one.rhythm}</Badge>
        {one.decision && <Badge kind="allowed">accepted by {one.decision.actor}</Badge>}
      </p>
      <Evidence one={one} byHour={props.byHour} />
      {(one.remarks ?? []).length > 0 && (
        <ul>
          {one.remarks!.map((remark) => (
            <li key={remark}>{remark}</li>
          ))}
        </ul>
      )}
      {one.decision && <Accepted text={acceptedText(one)} />}
      <details>
        <summary>The rule, and what it explains: {plural(one.explained ?? 0, "kind")} of flows</summary>
        <Command text={(one.policy ?? "").trimEnd()} />
        <Table caption="Those with most flows" columns={OBSERVED} rows={one.explains ?? []} keyOf={observedKey} />
      </details>
      {props.canDecide && !one.decision && <Decision {...props} />}
    </section>
  );
}

const acceptedText = (one: RuleSuggestion): string => one.decision?.decided || one.policy || "";

function Accepted({ text }: { text: string }): JSX.Element {
  return (
    <div>
      <h3>For a new file of the policy, then push it</h3>
      <Command text={text.trimEnd()} />
    </div>
  );
}

function Evidence({ one, byHour }: { one: RuleSuggestion; byHour: boolean }): JSX.Element {
  const { permitted = 0, seen = 0, unseen = 0, silent = 0, examples = [] } = one.excess ?? {};
  const hosts = one.of_hosts ? `${count(one.hosts)} of ${plural(one.of_hosts, "host")}` : plural(one.hosts ?? 0, "address", "addresses");
  return (
    <dl>
      <dt>Seen</dt>
      <dd>
        {plural(num(one.flows), "flow")} by {hosts}, {byHour ? "in" : "on"} {plural(one.sightings ?? 0, byHour ? "hour" : "day")}
      </dd>
      <dt>First, last</dt>
      <dd>
        {ago(one.first_seen_us)}, {ago(one.last_seen_us)}
      </dd>
      <dt>Excess</dt>
      <dd>
        {unseen === 0 && silent === 0 ? (
          "permits nothing that was not seen"
        ) : (
          <>
            of {plural(permitted, "pair")} of groups {count(seen)} {seen === 1 ? "was" : "were"} seen, <b>{count(unseen)}</b> never
            {silent > 0 && `, of ${count(silent)} one end told nothing`}
            <meter value={seen} max={Math.max(permitted, 1)} aria-label={`Pairs that were seen, of ${one.name}`} />
            {examples.length > 0 && <div class="quiet">such as {examples.join("; ")}</div>}
          </>
        )}
      </dd>
    </dl>
  );
}

function Decision(props: { one: RuleSuggestion; waiting: readonly RuleSuggestion[]; decided: () => void }): JSX.Element {
  const { one, waiting, decided } = props;
  const [doing, setDoing] = useState<"" | "edit" | "reject">("");
  const [error, setError] = useState("");
  const send = async (verdict: string, fields: { reason?: string; decided?: string }) =>
    setError(await decide({ id: one.id, verdict, suggested: one.whole, ...fields }, decided));
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    const text = String(new FormData(event.currentTarget as HTMLFormElement).get("text"));
    void (doing === "edit" ? send("edited", { decided: text }) : send("rejected", { reason: text.trim() }));
  };
  return (
    <>
      {waiting.map((other) => {
        const both = shared(one.policy ?? "", acceptedText(other));
        return (
          both.length > 0 && (
            <p class="notice" key={other.id}>
              Push {other.name} first: both texts declare the {both.join(" and the ")}, which a policy refuses.
            </p>
          )
        );
      })}
      <p class="actions">
        <button type="button" class="primary" onClick={() => send("accepted", { decided: one.policy })}>
          Accept
        </button>
        <button type="button" aria-expanded={doing === "edit"} onClick={() => setDoing(doing === "edit" ? "" : "edit")}>
          Edit
        </button>
        <button type="button" aria-expanded={doing === "reject"} onClick={() => setDoing(doing === "reject" ? "" : "reject")}>
          Reject
        </button>
      </p>
      {doing && (
        <form class="decision" onSubmit={submit} key={doing}>
          {doing === "edit" ? (
            <label class="field">
              <span>The rule as you want it</span>
              <textarea name="text" rows={14} spellcheck={false} defaultValue={one.policy} required />
            </label>
          ) : (
            <label class="field">
              <span>Why not, for whoever meets these flows next</span>
              <input name="text" maxLength={500} required />
            </label>
          )}
          <button type="submit">{doing === "edit" ? "Accept this text" : "Reject"}</button>
        </form>
      )}
      {error && (
        <p class="error" role="alert">
          {error}
        </p>
      )}
    </>
  );
}
