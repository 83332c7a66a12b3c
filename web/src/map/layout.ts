// Where groups lie: in layers, so that connections go from left to right where they can. The same picture has the same
// places every time, whatever order it came in: what moved has changed.
import type { Picture } from "./model";

export interface Point {
  x: number;
  y: number;
}

const SWEEPS = 6;
const TALLEST = 18;

/** `aspect`: width by height of what it is drawn on. Coordinates have no unit. */
export function layout(picture: Picture, aspect: number): Map<string, Point> {
  const ids = picture.nodes.map((node) => node.id).sort();
  const next = new Map<string, string[]>(ids.map((id) => [id, []]));
  const before = new Map<string, string[]>(ids.map((id) => [id, []]));
  for (const { from, to } of picture.links) {
    if (from === to) continue;
    next.get(from)!.push(to);
    before.get(to)!.push(from);
  }
  for (const list of [...next.values(), ...before.values()]) list.sort();
  // What is not ours comes first, where it begins anything: from outside to inside is how people read it.
  const outside = picture.nodes.filter((node) => node.group.outside && next.get(node.id)!.length > 0).map((node) => node.id);
  const layers = ordered(split(layersOf(ids, next, before, outside)), next, before);
  const tallest = Math.max(1, ...layers.map((layer) => layer.length));
  const width = Math.max(1, layers.length - 1);
  const points = new Map<string, Point>();
  layers.forEach((layer, column) =>
    layer.forEach((id, row) => {
      // Every second column is a little lower: labels of neighbours do not run into each other.
      const shift = column % 2 ? 0.25 : 0;
      points.set(id, { x: (column / width) * aspect * tallest, y: -(row - (layer.length - 1) / 2 + shift) });
    }),
  );
  return points;
}

/** The longest way from a source, without the links that would close a circle. */
function layersOf(ids: string[], next: Map<string, string[]>, before: Map<string, string[]>, outside: string[]): string[][] {
  const order = withoutCircles(ids, next, before, outside);
  const position = new Map(order.map((id, n) => [id, n]));
  const rank = new Map<string, number>(ids.map((id) => [id, 0]));
  for (const id of order)
    for (const to of next.get(id)!)
      if (position.get(to)! > position.get(id)!) rank.set(to, Math.max(rank.get(to)!, rank.get(id)! + 1));
  const layers: string[][] = Array.from({ length: Math.max(0, ...rank.values()) + 1 }, () => []);
  for (const id of ids) layers[rank.get(id)!]!.push(id);
  return layers.filter((layer) => layer.length > 0);
}

/** Eades, Lin and Smyth: sinks last, sources first, then who sends most for what it receives; `begin` before all. */
function withoutCircles(ids: string[], next: Map<string, string[]>, before: Map<string, string[]>, begin: string[]): string[] {
  const out = new Map(ids.map((id) => [id, next.get(id)!.length]));
  const into = new Map(ids.map((id) => [id, before.get(id)!.length]));
  const left = new Set(ids);
  const first: string[] = [];
  const last: string[] = [];
  const take = (id: string) => {
    left.delete(id);
    for (const to of next.get(id)!) into.set(to, into.get(to)! - 1);
    for (const from of before.get(id)!) out.set(from, out.get(from)! - 1);
  };
  for (const id of begin) {
    take(id);
    first.push(id);
  }
  while (left.size > 0) {
    const sink = [...left].find((id) => out.get(id) === 0 && into.get(id)! > 0);
    const source = sink === undefined ? [...left].find((id) => into.get(id) === 0) : undefined;
    const chosen = sink ?? source ?? most(left, (id) => out.get(id)! - into.get(id)!);
    take(chosen);
    if (sink !== undefined) last.unshift(sink);
    else first.push(chosen);
  }
  return [...first, ...last];
}

function most(ids: Iterable<string>, of: (id: string) => number): string {
  let best = "";
  let value = -Infinity;
  for (const id of ids) if (of(id) > value) [best, value] = [id, of(id)];
  return best;
}

/** Layers that are too tall become several. */
function split(layers: string[][]): string[][] {
  const total = layers.reduce((sum, layer) => sum + layer.length, 0);
  const tallest = Math.max(TALLEST, Math.ceil(Math.sqrt(total) * 1.2));
  return layers.flatMap((layer) => {
    const parts = Math.ceil(layer.length / tallest);
    const size = Math.ceil(layer.length / parts);
    return Array.from({ length: parts }, (_, n) => layer.slice(n * size, (n + 1) * size));
  });
}

/** Each node near the middle of those it talks to, in some sweeps to and fro. */
function ordered(layers: string[][], next: Map<string, string[]>, before: Map<string, string[]>): string[][] {
  const height = new Map<string, number>();
  const note = (layer: string[]) => layer.forEach((id, row) => height.set(id, row - (layer.length - 1) / 2));
  layers.forEach(note);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const forth = sweep % 2 === 0;
    const neighbours = forth ? before : next;
    for (const layer of forth ? layers : [...layers].reverse()) {
      const middle = new Map(
        layer.map((id) => {
          const around = neighbours.get(id)!.map((other) => height.get(other)!);
          return [id, around.length ? around.reduce((a, b) => a + b, 0) / around.length : height.get(id)!];
        }),
      );
      layer.sort((a, b) => middle.get(a)! - middle.get(b)! || (a < b ? -1 : 1));
      note(layer);
    }
  }
  return layers;
}
