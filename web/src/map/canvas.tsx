// The drawn map: WebGL by sigma. The table beside it says the same to who cannot see or point.
import { EdgeCurvedArrowProgram } from "@sigma/edge-curve";
import Graph from "graphology";
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import Sigma from "sigma";
import { EdgeRectangleProgram } from "sigma/rendering";
import { plural } from "../format";
import { drawHover, drawLabel, themeOf } from "./draw";
import { layout } from "./layout";
import { linkId, type Picture } from "./model";

/** Links that are drawn as curves with arrows, and that are drawn while the map moves: without a graphics card more of
 * them take longer than a frame. */
const MOST_CURVED = 150;
const MOST_MOVED = 300;

export function MapCanvas(props: {
  picture: Picture;
  picked: string;
  onPick: (id: string) => void;
  onOpen: (id: string) => void;
}): JSX.Element {
  const { picture, picked } = props;
  const box = useRef<HTMLDivElement>(null);
  const drawn = useRef<Sigma | null>(null);
  const state = useRef(props);
  state.current = props;
  const [broken, setBroken] = useState("");
  const dark = useDark();

  useEffect(() => {
    const element = box.current!;
    let sigma: Sigma;
    try {
      sigma = draw(element, picture, state);
    } catch (error) {
      setBroken(String(error));
      return;
    }
    drawn.current = sigma;
    return () => {
      drawn.current = null;
      sigma.kill();
    };
  }, [picture, dark]);
  useEffect(() => void drawn.current?.refresh({ skipIndexation: true }), [picked]);

  const camera = (way: "in" | "out" | "fit") => {
    const found = drawn.current?.getCamera();
    if (way === "in") void found?.animatedZoom({ duration: 150 });
    else if (way === "out") void found?.animatedUnzoom({ duration: 150 });
    else void found?.animatedReset({ duration: 150 });
  };
  const words = `Map of ${plural(picture.nodes.length, "group")} and ${plural(picture.links.length, "link")}; the table below has all of it.`;
  return (
    <div class="canvas">
      <div ref={box} class="drawing" role="img" aria-label={words} />
      {broken && <p class="error">The map cannot be drawn here ({broken}). The table below has all of it.</p>}
      <div class="zoom" role="group" aria-label="Zoom">
        <button type="button" aria-label="Zoom in" onClick={() => camera("in")}>
          +
        </button>
        <button type="button" aria-label="Zoom out" onClick={() => camera("out")}>
          −
        </button>
        <button type="button" aria-label="Show all" onClick={() => camera("fit")}>
          ⤢
        </button>
      </div>
    </div>
  );
}

function useDark(): boolean {
  const query = matchMedia("(prefers-color-scheme: dark)");
  const [dark, setDark] = useState(query.matches);
  useEffect(() => {
    const look = () => setDark(query.matches);
    query.addEventListener("change", look);
    return () => query.removeEventListener("change", look);
  }, []);
  return dark;
}

interface Pointing {
  picked: string;
  onPick: (id: string) => void;
  onOpen: (id: string) => void;
}

function draw(element: HTMLElement, picture: Picture, state: { current: Pointing }): Sigma {
  const theme = themeOf(element);
  const graph = new Graph({ type: "directed", multi: false, allowSelfLoops: true });
  const narrow = element.clientWidth < 600;
  const points = layout(picture, narrow ? 0.8 : (element.clientWidth / Math.max(1, element.clientHeight)) * 0.85);
  for (const node of picture.nodes) {
    const size = 5 + Math.min(9, Math.log10(1 + node.flows) * 1.8);
    const color = node.group.outside ? theme.outside : node.within ? theme.opened : theme.node;
    graph.addNode(node.id, { ...points.get(node.id)!, size, color, label: node.text });
  }
  const links = new Map(picture.links.map((link) => [link.id, link]));
  for (const link of picture.links) {
    if (link.from === link.to) continue; // the table has them
    const back = links.has(linkId(link.to, link.from));
    const size = 1.5 + Math.min(4, Math.log10(1 + link.flows));
    graph.addEdgeWithKey(link.id, link.from, link.to, {
      size,
      color: theme.verdict[link.verdict],
      curvature: back ? 0.3 : 0.12,
    });
  }
  const many = picture.nodes.length > 60;
  const sigma = new Sigma(graph, element, {
    allowInvalidContainer: true,
    defaultEdgeType: "curve",
    edgeProgramClasses: { curve: picture.links.length > MOST_CURVED ? EdgeRectangleProgram : EdgeCurvedArrowProgram },
    defaultDrawNodeLabel: drawLabel(theme),
    defaultDrawNodeHover: drawHover(theme),
    labelFont: "system-ui, sans-serif",
    labelSize: 12,
    labelRenderedSizeThreshold: many ? 8 : 0,
    labelDensity: many ? 1 : 10,
    stagePadding: narrow ? 50 : 70,
    hideEdgesOnMove: picture.links.length > MOST_MOVED,
    enableEdgeEvents: picture.links.length <= 3000,
    zIndex: true,
    minCameraRatio: 0.05,
    maxCameraRatio: 3,
  });
  const known = (picked: string) => links.has(picked) || graph.hasNode(picked);
  // A group that talks to itself has a link that is not drawn, and can be picked below.
  const near = (id: string, picked: string) => {
    const link = links.get(picked);
    return link ? link.from === id || link.to === id : graph.areNeighbors(id, picked);
  };
  sigma.setSetting("nodeReducer", (id, data) => {
    const { picked } = state.current;
    if (!known(picked) || picked === id || near(id, picked)) return { ...data, highlighted: picked === id, zIndex: 1 };
    return { ...data, color: theme.faded, label: "" };
  });
  sigma.setSetting("edgeReducer", (id, data) => {
    const { picked } = state.current;
    const shown = !known(picked) || picked === id || graph.source(id) === picked || graph.target(id) === picked;
    return shown ? { ...data, zIndex: 1 } : { ...data, color: theme.faded };
  });
  sigma.on("clickNode", ({ node }) => (state.current.picked === node ? state.current.onOpen(node) : state.current.onPick(node)));
  sigma.on("clickEdge", ({ edge }) => state.current.onPick(edge));
  sigma.on("clickStage", () => state.current.onPick(""));
  sigma.on("doubleClickNode", (event) => event.preventSigmaDefault());
  sigma.on("enterNode", () => element.classList.add("pointing"));
  sigma.on("leaveNode", () => element.classList.remove("pointing"));
  return sigma;
}
