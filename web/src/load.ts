// What a page asks for when it is shown, and again when what it asks changes.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "./api";

export interface Loaded<T> {
  data: T | null;
  error: ApiError | null;
  loading: boolean;
  again: () => void;
}

/** `key` says what is asked: another key asks again, and what comes of the old one is dropped. */
export function useLoad<T>(key: string, load: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const [state, setState] = useState<Omit<Loaded<T>, "again">>({ data: null, error: null, loading: true });
  const [round, setRound] = useState(0);
  const asked = useRef(load);
  asked.current = load;
  useEffect(() => {
    const ending = new AbortController();
    setState((before) => ({ ...before, loading: true }));
    asked.current(ending.signal).then(
      (data) => !ending.signal.aborted && setState({ data, error: null, loading: false }),
      (error: unknown) => {
        if (ending.signal.aborted) return;
        const told = error instanceof ApiError ? error : new ApiError("INTERNAL", String(error));
        setState({ data: null, error: told, loading: false });
      },
    );
    return () => ending.abort();
  }, [key, round]);
  return { ...state, again: useCallback(() => setRound((n) => n + 1), []) };
}
