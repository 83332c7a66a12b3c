// Builds the bundle; the folder to write to is the first argument. The same sources give the same bytes.
import { build } from "esbuild";
import { cp } from "node:fs/promises";
import { join } from "node:path";

const target = process.argv[2];
if (!target) throw new Error("usage: node build.mjs FOLDER");
await build({
  entryPoints: { app: "src/main.tsx", style: "src/style.css" },
  outdir: target,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome111", "firefox115", "safari16.4"],
  legalComments: "none",
  logLevel: "warning",
});
for (const name of ["index.html", "icon.svg"]) await cp(join("src", name), join(target, name));
