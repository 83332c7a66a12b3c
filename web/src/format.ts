// Values of messages as people read them. Times are UTC, as everywhere in segctl.
import type { Long, PortRange, TagGroup } from "./messages";

export const num = (value: Long | undefined): number => Number(value ?? 0);

const COUNT = new Intl.NumberFormat("en");
export const count = (value: Long | undefined): string => COUNT.format(num(value));

export function plural(amount: number, one: string, many = `${one}s`): string {
  return `${COUNT.format(amount)} ${amount === 1 ? one : many}`;
}

export function bytes(value: Long | undefined): string {
  let left = num(value);
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (left < 1000) return `${left < 10 && unit !== "B" ? left.toFixed(1) : Math.round(left)} ${unit}`;
    left /= 1000;
  }
  return `${left.toFixed(1)} TB`;
}

/** 2026-11-28 14:03:22 of Unix microseconds; empty for 0. */
export function moment(us: Long | undefined): string {
  return num(us) ? new Date(num(us) / 1000).toISOString().slice(0, 19).replace("T", " ") : "";
}

/** "3 min ago", from `now` in Unix milliseconds. */
export function ago(us: Long | undefined, now = Date.now()): string {
  if (!num(us)) return "never";
  const seconds = Math.max(0, (now - num(us) / 1000) / 1000);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${plural(Math.floor(seconds / 86400), "day")} ago`;
}

/** An IPv4 or IPv6 address of 4 or 16 bytes in base64 (RFC 5952 for the latter). */
export function address(base64: string | undefined): string {
  const octets = octetsOf(base64);
  if (octets.length === 4) return octets.join(".");
  if (octets.length !== 16) return "";
  const words = Array.from({ length: 8 }, (_, n) => ((octets[2 * n]! << 8) | octets[2 * n + 1]!).toString(16));
  // The browser's own parser shortens it.
  return new URL(`http://[${words.join(":")}]/`).hostname.slice(1, -1);
}

export function service(range: PortRange | undefined, name?: string): string {
  if (!range?.protocol) return name ?? "";
  const low = range.low ?? 0;
  const high = range.high ?? 0;
  const text = `${range.protocol}/${low === high ? low : `${low}-${high}`}`;
  return name ? `${name} (${text})` : text;
}

export function tagText(tags: Record<string, string> | undefined): string {
  return Object.entries(tags ?? {})
    .filter(([, value]) => value)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `${key}=${value}`)
    .join(", ");
}

/** What a group of the map is called. A tag with an empty value is one that its hosts do not have. */
export function groupText(group: TagGroup | undefined): string {
  if (group?.outside) return group.peer ? `peer ${group.peer}` : "outside";
  const keys = Object.keys(group?.tags ?? {}).sort();
  return tagText(group?.tags) || (keys.length === 1 ? `no ${keys[0]}` : "no tags");
}

/** What people call a process: of unit:nginx.service nginx, of exe:/usr/bin/ssh ssh. */
export function processName(identity: string | undefined): string {
  const [, kind, name = ""] = /^([a-z]+):(.*)$/s.exec(identity ?? "") ?? [];
  if (kind === "exe") return name.split("/").pop()!;
  return kind === "unit" ? name.replace(/\.service$/, "") : kind ? name : (identity ?? "");
}

/** Text of bytes in base64, and back. */
export const fromBase64 = (base64: string | undefined): string => new TextDecoder().decode(octetsOf(base64));

export function toBase64(text: string): string {
  let letters = "";
  for (const octet of new TextEncoder().encode(text)) letters += String.fromCharCode(octet);
  return btoa(letters);
}

const octetsOf = (base64: string | undefined): Uint8Array => Uint8Array.from(atob(base64 ?? ""), (letter) => letter.charCodeAt(0));
