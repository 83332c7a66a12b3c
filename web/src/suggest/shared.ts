// What two suggested texts declare both, which a policy refuses. They are as the controller writes them.
const DECLARING = ["services", "peers", "workloads"];

/** "workload nginx", "service postgres". */
function declared(text: string): string[] {
  let section = "";
  return text.split("\n").flatMap((line) => {
    section = /^(\w+):/.exec(line)?.[1] ?? section;
    const name = /^  ([^\s:#-][^\s:]*):/.exec(line)?.[1];
    return name && DECLARING.includes(section) ? [`${section.slice(0, -1)} ${name}`] : [];
  });
}

export function shared(one: string, other: string): string[] {
  const there = declared(other);
  return declared(one).filter((what) => there.includes(what));
}
