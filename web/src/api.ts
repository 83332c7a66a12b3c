// Calls of the controller's Admin service, and its streams. Signed in is who has the cookie; no script can read it.
import type { Methods, Streams } from "./messages";

export class ApiError extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

const HEADERS = { "Content-Type": "application/json", "X-Segctl": "1" };
let signedOut: () => void = () => {};

/** What happens when the controller says that nobody is signed in any more. */
export function onSignedOut(handler: () => void): void {
  signedOut = handler;
}

/** POST a JSON body to a path of the controller. Throws ApiError. */
export async function post(path: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, { method: "POST", headers: HEADERS, body: JSON.stringify(body), signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("UNREACHABLE", "The controller does not answer. Is the network up, and the controller running?");
  }
  if (answer.ok) return answer;
  const refused = await refusalOf(answer);
  if (refused.code === "UNAUTHENTICATED" && path.startsWith("/api/")) signedOut();
  throw refused;
}

async function refusalOf(answer: Response): Promise<ApiError> {
  const text = await answer.text();
  try {
    const told = JSON.parse(text) as { code: string; message: string };
    return new ApiError(told.code, told.message);
  } catch {
    return new ApiError(`HTTP ${answer.status}`, text.slice(0, 300) || `HTTP ${answer.status}`);
  }
}

export async function call<M extends keyof Methods>(
  method: M,
  request: Methods[M]["request"],
  signal?: AbortSignal,
): Promise<Methods[M]["reply"]> {
  const answer = await post(`/api/v1/${method}`, request, signal);
  return (await answer.json()) as Methods[M]["reply"];
}

/** Every message of a stream, until it ends or `signal` says so; `begun` is when it stands. Throws ApiError. */
export async function* stream<M extends keyof Streams>(
  method: M,
  request: Streams[M]["request"],
  signal: AbortSignal,
  begun: () => void,
): AsyncGenerator<Streams[M]["reply"]> {
  const answer = await post(`/api/v1/${method}`, request, signal);
  begun();
  for await (const event of eventsOf(answer.body!)) {
    const data = JSON.parse(event.data) as unknown;
    if (event.kind === "refused") {
      const told = data as { code: string; message: string };
      if (told.code === "UNAUTHENTICATED") signedOut();
      throw new ApiError(told.code, told.message);
    }
    yield data as Streams[M]["reply"];
  }
}

/** Server-sent events (HTML, 9.2.6), as far as the controller sends them. */
async function* eventsOf(body: ReadableStream<Uint8Array>): AsyncGenerator<{ kind: string; data: string }> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop()!;
      for (const block of blocks) {
        const fields = block.split("\n").filter((line) => !line.startsWith(":"));
        const of = (name: string) => fields.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2));
        const data = of("data").join("\n");
        if (data) yield { kind: of("event")[0] ?? "message", data };
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
