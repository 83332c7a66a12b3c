// What a draft of the policy would do: to permissions, to live connections, and to the flows of the past.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { ApiError, call } from "../api";
import type { PageProps } from "../app";
import { Effects, type Effect } from "../draft/effects";
import { fromBase64, toBase64 } from "../format";
import { Choice, Command, Failed, Loading } from "../ui/parts";

interface DraftFile {
  name: string;
  text: string;
}

const DAY_US = 86400e6;
const SPANS = 24;
const WINDOWS: readonly (readonly [string, string])[] = [
  ["1", "last day"],
  ["7", "last 7 days"],
  ["30", "last 30 days"],
];

export function DraftPage(_: PageProps): JSX.Element {
  const [files, setFiles] = useState<DraftFile[]>([]);
  const [days, setDays] = useState("7");
  const [effect, setEffect] = useState<Effect | null>(null);
  const [failed, setFailed] = useState<{ error: ApiError; again: () => void } | null>(null);
  const [busy, setBusy] = useState("");

  const run = async (what: string, work: () => Promise<void>) => {
    setBusy(what);
    setFailed(null);
    try {
      await work();
    } catch (refused) {
      const error = refused instanceof ApiError ? refused : new ApiError("INTERNAL", String(refused));
      setFailed({ error, again: () => void run(what, work) });
    }
    setBusy("");
  };
  const inForce = () =>
    run("the policy in force", async () => {
      const found = await call("GetGeneration", {});
      setFiles((found.source?.files ?? []).map((file) => ({ name: file.name ?? "", text: fromBase64(file.content) })));
    });
  const choose = (event: { currentTarget: HTMLInputElement }) => {
    const chosen = [...(event.currentTarget.files ?? [])];
    void run("files", async () => setFiles(await Promise.all(chosen.map(async (file) => ({ name: file.name, text: await file.text() })))));
  };
  const judge = () =>
    run("what it would do", async () => {
      setEffect(null);
      const source = { files: files.map((file) => ({ name: file.name, content: toBase64(file.text) })) };
      const plan = await call("Plan", source);
      const refused = (plan.findings ?? []).some((finding) => finding.severity === "error");
      const length = Number(days) * DAY_US;
      const asked = { source, since_us: String(Date.now() * 1000 - length), limit: 100, span_us: String(length / SPANS) };
      setEffect({ plan, impact: refused ? null : await call("DraftImpactFlows", asked) });
    });
  const edit = (name: string, text: string) => {
    setEffect(null); // it was that of another text
    setFiles(files.map((file) => (file.name === name ? { name, text } : file)));
  };

  return (
    <>
      <div class="title">
        <h1 tabIndex={-1}>What if</h1>
      </div>
      <p class="summary quiet">
        See what a draft of the policy would do before anybody pushes it: which permissions change, which live connections would end, and
        which flows of the past would have been denied or allowed. Nothing is stored.
      </p>
      <div class="filters">
        <button type="button" onClick={inForce}>
          Start from the policy in force
        </button>
        <label class="field">
          <span>or choose files</span>
          <input type="file" multiple accept=".yaml,.yml" onChange={choose} />
        </label>
        <Choice label="Replay over" value={days} options={WINDOWS} onChange={setDays} />
        <button type="button" class="primary" disabled={files.length === 0 || busy !== ""} onClick={judge}>
          What would it do?
        </button>
      </div>
      {files.map((file) => (
        <details key={file.name} open={files.length === 1}>
          <summary>{file.name}</summary>
          <textarea
            rows={18}
            spellcheck={false}
            aria-label={`Draft of ${file.name}`}
            value={file.text}
            onInput={(event) => edit(file.name, event.currentTarget.value)}
          />
        </details>
      ))}
      {files.length === 0 && (
        <div class="note">
          The same on the command line: <Command text={`segctl plan --replay ${days}d policy/`} />
        </div>
      )}
      {busy && <Loading what={busy} />}
      {failed && <Failed {...failed} />}
      {effect && <Effects effect={effect} />}
    </>
  );
}
