// How long a stretch of time is looked at, and until when.
import type { JSX } from "preact";
import { setParams, type Place } from "../router";
import { LENGTHS, setAt, spanOf } from "../span";
import { Choice } from "./parts";

const LOCAL_LENGTH = "2026-11-28T14:03".length;

export function AtField({ place }: { place: Place }): JSX.Element {
  const { at } = spanOf(place.params);
  const change = (text: string) => {
    const wanted = text ? Date.parse(`${text}Z`) : NaN;
    setAt(Number.isNaN(wanted) || wanted >= Date.now() ? null : wanted);
  };
  return (
    <label class="field moment">
      <span>As of (UTC), empty for now</span>
      <input
        type="datetime-local"
        name="at"
        value={at === null ? "" : new Date(at).toISOString().slice(0, LOCAL_LENGTH)}
        onChange={(event) => change(event.currentTarget.value)}
      />
    </label>
  );
}

export function SpanField({ place }: { place: Place }): JSX.Element {
  return (
    <Choice
      label="Time"
      name="span"
      value={spanOf(place.params).length}
      options={Object.entries(LENGTHS).map(([value, { text }]) => [value, `last ${text}`])}
      onChange={(span) => setParams({ span })}
    />
  );
}
