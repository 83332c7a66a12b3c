// The address bar is the state of the page: it can be bookmarked, sent to a colleague, and gone back from.
import { useEffect, useState } from "preact/hooks";

export interface Place {
  path: string;
  params: URLSearchParams;
}

const CHANGED = "segctl-place";

function here(): Place {
  return { path: location.pathname, params: new URLSearchParams(location.search) };
}

/** An address of this UI; parameters that are empty are left out. */
export function href(path: string, params: Record<string, string | number | undefined> = {}): string {
  const found = new URLSearchParams();
  for (const [key, value] of Object.entries(params)) if (value !== undefined && value !== "") found.set(key, String(value));
  const query = found.toString();
  return query ? `${path}?${query}` : path;
}

export function go(to: string, replace = false): void {
  if (to === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", to);
  dispatchEvent(new Event(CHANGED));
}

/** Set parameters of the place where we are; an empty one goes. */
export function setParams(changes: Record<string, string>, replace = false): void {
  const { path, params } = here();
  go(href(path, { ...Object.fromEntries(params), ...changes }), replace);
}

export function usePlace(): Place {
  const [place, setPlace] = useState(here);
  useEffect(() => {
    const look = () => setPlace(here());
    addEventListener(CHANGED, look);
    addEventListener("popstate", look);
    return () => {
      removeEventListener(CHANGED, look);
      removeEventListener("popstate", look);
    };
  }, []);
  return place;
}

/** Links to pages of ours do not load the UI anew. */
export function followLinks(event: MouseEvent): void {
  const link = (event.target as Element).closest?.("a");
  const plain = event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
  if (!link || !plain || link.target || link.hasAttribute("download") || event.defaultPrevented) return;
  const to = new URL(link.href);
  if (to.origin !== location.origin || to.pathname.startsWith("/auth/") || to.hash) return;
  event.preventDefault();
  go(to.pathname + to.search);
}
