// What people type into the fields of a search, and what is wrong with it. The words are those of the command line.
import type { PortRange, TagGroup } from "./messages";

/** What a field says; `wrong`: why it cannot be read, and how it is written. */
export interface Said<T> {
  value?: T;
  wrong?: string;
}

const TAG = /^([A-Za-z0-9][A-Za-z0-9_.-]*)=([A-Za-z0-9][A-Za-z0-9_.-]*|)$/;
const PORT = /^(?:(tcp|udp|icmp|icmpv6|\d{1,3})\/)?(\d{1,5})$/;
const PROTOCOL = /^(tcp|udp|icmp|icmpv6)$|^ip\/(\d{1,3})$/;
const MOST_PORT = 65535;
const OUTSIDE = "outside";

/** "app=shop, env=prod"; "app=" is no app. */
export function tagsOf(text: string): Said<Record<string, string>> {
  const tags: Record<string, string> = {};
  for (const word of text.split(/[\s,]+/).filter(Boolean)) {
    const [, key, value = ""] = TAG.exec(word) ?? [];
    if (!key) return { wrong: `“${word}” is no tag. Write KEY=VALUE, such as env=prod.` };
    if (Object.hasOwn(tags, key)) return { wrong: `${key} is there twice: a host has one value of it.` };
    tags[key] = value;
  }
  return { value: tags };
}

/** `outside`, or tags; nothing: whoever it is. */
export function groupOf(text: string): Said<TagGroup | undefined> {
  if (!text) return {};
  if (text === OUTSIDE) return { value: { outside: true } };
  const { value: tags, wrong } = tagsOf(text);
  return tags ? { value: { tags } } : { wrong: `${wrong} Or write ${OUTSIDE}.` };
}

/** What says the same of a group of the map. */
export function groupField(group: TagGroup | undefined): string {
  if (group?.outside) return OUTSIDE;
  return Object.entries(group?.tags ?? {})
    .map(([key, value]) => `${key}=${value}`)
    .sort()
    .join(", ");
}

/** tcp/5432, 5432, or udp; ip/47 is another IP protocol, which has no ports. Nothing: any. */
export function portOf(text: string): Said<{ protocol?: string; port?: number }> {
  if (!text) return { value: {} };
  const [, protocol, number] = PROTOCOL.exec(text) ?? [];
  if (protocol || number) return { value: { protocol: protocol ?? number } };
  const [, before, port] = PORT.exec(text) ?? [];
  if (!port || Number(port) > MOST_PORT) return { wrong: `“${text}” is no port. Write 5432, tcp/5432, or a protocol: udp.` };
  return { value: { ...(before ? { protocol: before } : {}), port: Number(port) } };
}

/** The same of a service of the map, which has one port. */
export const portText = (range: PortRange | undefined): string => (range?.protocol ? `${range.protocol}/${range.low ?? 0}` : "");
