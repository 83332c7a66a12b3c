// Colours of the theme, and labels that can be read above links.
import type { NodeHoverDrawingFunction, NodeLabelDrawingFunction } from "sigma/rendering";
import type { Verdict } from "./model";

export interface Theme {
  text: string;
  back: string;
  line: string;
  node: string;
  opened: string;
  outside: string;
  faded: string;
  verdict: Record<Verdict, string>;
}

export function themeOf(element: Element): Theme {
  const style = getComputedStyle(element);
  const color = (name: string) => style.getPropertyValue(name).trim();
  return {
    text: color("--text"),
    back: color("--raised"),
    line: color("--line"),
    node: color("--accent"),
    opened: color("--accent-soft"),
    outside: color("--quiet"),
    faded: color("--faded"),
    verdict: {
      allowed: color("--allowed"),
      "not-covered": color("--not-covered"),
      "would-deny": color("--would-deny"),
      denied: color("--denied"),
    },
  };
}

export function drawLabel(theme: Theme, strong = false): NodeLabelDrawingFunction {
  return (context, data, settings) => {
    if (!data.label) return;
    context.font = `${strong ? 600 : 400} ${settings.labelSize}px ${settings.labelFont}`;
    const width = context.measureText(data.label).width + 8;
    const height = settings.labelSize + 6;
    const x = data.x - width / 2;
    const y = data.y + data.size + 4;
    context.fillStyle = theme.back;
    context.globalAlpha = strong ? 1 : 0.85;
    context.beginPath();
    context.roundRect(x, y, width, height, 4);
    context.fill();
    context.globalAlpha = 1;
    if (strong) {
      context.strokeStyle = theme.line;
      context.stroke();
    }
    context.fillStyle = theme.text;
    context.fillText(data.label, x + 4, y + height - 5);
  };
}

export function drawHover(theme: Theme): NodeHoverDrawingFunction {
  const label = drawLabel(theme, true);
  return (context, data, settings) => {
    context.strokeStyle = theme.text;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(data.x, data.y, data.size + 3, 0, Math.PI * 2);
    context.stroke();
    context.lineWidth = 1;
    label(context, data, settings);
  };
}
