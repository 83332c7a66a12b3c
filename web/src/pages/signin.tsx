import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ApiError, post } from "../api";
import { go, type Place } from "../router";
import { Command } from "../ui/parts";

const FAILED: Record<string, string> = {
  forbidden: "You are signed in at your provider, but none of your groups has a role here. Ask an administrator for one.",
  limit: "Too many sign-ins from your address. Wait a minute, then try again.",
  refused: "The sign-in was not completed: it took too long, was refused, or began in another window. Try again.",
  provider: "The controller cannot reach your OpenID provider, or could not understand it. Its log says why.",
};

export function SignInPage({ place, done }: { place: Place; done: () => void }): JSX.Element {
  const [issuer, setIssuer] = useState("");
  const [error, setError] = useState(FAILED[place.params.get("failed") ?? ""] ?? "");
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    document.title = "Sign in · segctl";
    fetch("/auth/options")
      .then((answer) => answer.json() as Promise<{ issuer: string }>)
      .then((options) => setIssuer(options.issuer))
      .catch(() => setError("The controller does not answer."));
  }, []);
  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    const token = String(new FormData(form).get("token") ?? "").trim();
    if (!token) return setError("Paste an API token first.");
    setBusy(true);
    try {
      await post("/auth/token", { token });
      form.reset();
      if (place.path === "/signin") go("/map", true);
      done();
    } catch (refused) {
      setError(refused instanceof ApiError ? refused.message : String(refused));
      setBusy(false);
    }
  };
  return (
    <main class="signin" id="main">
      <h1>
        <img src="/icon.svg" alt="" width="28" height="28" /> segctl
      </h1>
      <p class="quiet">See the fleet, decide with evidence.</p>
      {error && (
        <p class="error" role="alert">
          {error}
        </p>
      )}
      {issuer && (
        <>
          <a class="button primary" href="/auth/oidc">
            Sign in with {new URL(issuer).host}
          </a>
          <p class="or">or</p>
        </>
      )}
      <form onSubmit={submit}>
        <label class="field">
          <span>API token</span>
          <input name="token" type="password" autocomplete="off" required autofocus={!issuer} aria-describedby="token-help" />
        </label>
        <button type="submit" class={issuer ? "" : "primary"} disabled={busy}>
          {busy ? "Signing in …" : "Sign in with the token"}
        </button>
      </form>
      <details id="token-help">
        <summary>Where do I get a token?</summary>
        <p>An administrator makes one. It is shown once; the role viewer is enough to read everything here.</p>
        <Command text="segctl api-token create web-NAME --role viewer" />
      </details>
    </main>
  );
}
