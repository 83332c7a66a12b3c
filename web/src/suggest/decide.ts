// A decision about a suggestion, sent to the controller.
import { ApiError, call } from "../api";
import type { DecideSuggestionRequest } from "../messages";

/** What went wrong; empty, and `then` was called, when it is decided. */
export async function decide(request: DecideSuggestionRequest, then: () => void): Promise<string> {
  try {
    await call("DecideSuggestion", request);
  } catch (error) {
    return error instanceof ApiError ? error.message : String(error);
  }
  then();
  return "";
}
