// What is around every page: the skip link, navigation, the moment that is looked at, and who is signed in.
import type { ComponentChildren, JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { post } from "./api";
import type { Page } from "./app";
import type { WhoAmIReply } from "./messages";
import { href, type Place } from "./router";
import { carried, setAt, spanOf } from "./span";

const OF_A_MOMENT = ["/map", "/flows", "/policy"];

export function Frame(props: {
  who: WhoAmIReply;
  place: Place;
  pages: readonly Page[];
  children: ComponentChildren;
}): JSX.Element {
  const { who, place, pages } = props;
  const nav = useRef<HTMLElement>(null);
  // In narrow windows the menu is wider than the window.
  useEffect(() => nav.current?.querySelector("[aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" }), [place.path]);
  return (
    <>
      <a class="skip" href="#main">
        Skip to the content
      </a>
      <header class="top">
        <a class="brand" href="/map">
          <img src="/icon.svg" alt="" width="22" height="22" />
          segctl
        </a>
        <nav aria-label="Pages" ref={nav}>
          {pages.map((page) => (
            <a key={page.path} href={href(page.path, carried(place))} aria-current={page.path === place.path ? "page" : undefined}>
              {page.title}
            </a>
          ))}
        </nav>
        <SignedIn who={who} />
      </header>
      {OF_A_MOMENT.includes(place.path) && <Past place={place} />}
      <main id="main" tabIndex={-1}>
        {props.children}
      </main>
    </>
  );
}

function SignedIn({ who }: { who: WhoAmIReply }): JSX.Element {
  const out = async () => {
    await post("/auth/out", {}).catch(() => {});
    location.assign("/signin");
  };
  const scopes = (who.scopes ?? []).map((scope) => Object.entries(scope.tags ?? {}).map(([k, v]) => `${k}=${v}`).join(","));
  return (
    <div class="who">
      <span title={`${who.identity}, fleet ${who.fleet}`}>
        <b>{who.name}</b> <span class="quiet">{[who.role, ...scopes].join(" ")}</span>
      </span>
      <button type="button" class="small" onClick={out}>
        Sign out
      </button>
    </div>
  );
}

/** Says that it is the past that is shown, and leads back. */
function Past({ place }: { place: Place }): JSX.Element | null {
  const { at } = spanOf(place.params);
  if (at === null) return null;
  return (
    <p class="past" role="status">
      As of <b>{new Date(at).toISOString().slice(0, 16).replace("T", " ")} UTC</b>
      <button type="button" class="small" onClick={() => setAt(null)}>
        Back to now
      </button>
    </p>
  );
}
