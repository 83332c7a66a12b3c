// The stretch of time that is looked at: how long, and until when. "At" is how one looks at the past.
import { setParams, type Place } from "./router";

export const LENGTHS: Record<string, { text: string; seconds: number }> = {
  "1h": { text: "1 hour", seconds: 3600 },
  "24h": { text: "24 hours", seconds: 86400 },
  "7d": { text: "7 days", seconds: 7 * 86400 },
  "30d": { text: "30 days", seconds: 30 * 86400 },
};
export const USUAL = "24h";

export interface Span {
  length: string;
  /** Unix milliseconds; null: now. */
  at: number | null;
}

export function spanOf(params: URLSearchParams): Span {
  const length = params.get("span") ?? USUAL;
  const at = Date.parse(params.get("at") ?? "");
  return { length: length in LENGTHS ? length : USUAL, at: Number.isNaN(at) ? null : at };
}

/** since_us and until_us of a request. Of now, `until_us` is left open. */
export function bounds(span: Span): { since_us: string; until_us?: string } {
  const end = span.at ?? Date.now();
  const since = Math.max(0, end - LENGTHS[span.length]!.seconds * 1000);
  return { since_us: String(since * 1000), ...(span.at === null ? {} : { until_us: String(span.at * 1000) }) };
}

/** The parameters that go from page to page. */
export function carried(place: Place): Record<string, string> {
  const kept: Record<string, string> = {};
  for (const key of ["span", "at"]) {
    const value = place.params.get(key);
    if (value) kept[key] = value;
  }
  return kept;
}

export function setAt(at: number | null): void {
  setParams({ at: at === null ? "" : new Date(at).toISOString().slice(0, 19) + "Z" });
}
