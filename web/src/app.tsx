// Who is signed in, and the page that the address names.
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, call, onSignedOut } from "./api";
import type { WhoAmIReply } from "./messages";
import { Frame } from "./frame";
import { DenialsPage } from "./pages/denials";
import { DraftPage } from "./pages/draft";
import { FlowsPage } from "./pages/flows";
import { HistoryPage } from "./pages/history";
import { HostsPage } from "./pages/hosts";
import { MapPage } from "./pages/map";
import { PolicyPage } from "./pages/policy";
import { ReadinessPage } from "./pages/readiness";
import { SignInPage } from "./pages/signin";
import { SuggestionsPage } from "./pages/suggestions";
import { go, usePlace, type Place } from "./router";
import { Failed, Loading } from "./ui/parts";

export interface PageProps {
  place: Place;
  who: WhoAmIReply;
}

export interface Page {
  path: string;
  title: string;
  show: (props: PageProps) => JSX.Element;
}

export const PAGES: readonly Page[] = [
  { path: "/map", title: "Map", show: MapPage },
  { path: "/flows", title: "Flows", show: FlowsPage },
  { path: "/denials", title: "Denials", show: DenialsPage },
  { path: "/policy", title: "Policy", show: PolicyPage },
  { path: "/hosts", title: "Hosts", show: HostsPage },
  { path: "/suggestions", title: "Suggestions", show: SuggestionsPage },
  { path: "/draft", title: "What if", show: DraftPage },
  { path: "/readiness", title: "Readiness", show: ReadinessPage },
  { path: "/history", title: "History", show: HistoryPage },
];

type Who = WhoAmIReply | "nobody" | ApiError | null;

export function App(): JSX.Element {
  const place = usePlace();
  const [who, setWho] = useState<Who>(null);
  const look = () => {
    setWho(null);
    call("WhoAmI", {}).then(setWho, (error: ApiError) => setWho(error.code === "UNAUTHENTICATED" ? "nobody" : error));
  };
  useEffect(() => {
    onSignedOut(() => setWho("nobody"));
    look();
  }, []);
  if (who === null) return <Loading what="your session" />;
  if (who === "nobody") return <SignInPage place={place} done={look} />;
  if (who instanceof ApiError) return <Failed error={who} again={look} />;
  return <Signed who={who} place={place} />;
}

function Signed({ who, place }: { who: WhoAmIReply; place: Place }): JSX.Element {
  const page = PAGES.find((one) => one.path === place.path);
  const first = useRef(true);
  useEffect(() => {
    if (!page) go("/map", true);
  }, [page]);
  useEffect(() => {
    if (!page) return;
    document.title = `${page.title} · segctl`;
    // Who does not see that the page changed is brought to its heading.
    if (!first.current) document.querySelector<HTMLElement>("h1")?.focus();
    first.current = false;
  }, [page]);
  if (!page) return <Loading what="the map" />;
  const Show = page.show;
  return (
    <Frame who={who} place={place} pages={PAGES}>
      <Show key={page.path} who={who} place={place} />
    </Frame>
  );
}
