// The small parts that pages are made of. Text from the network is always a text node.
import type { ComponentChildren, JSX } from "preact";
import { useId, useState } from "preact/hooks";
import type { ApiError } from "../api";
import { ago, moment } from "../format";
import type { Long } from "../messages";

export function Badge({ kind, children }: { kind: string; children: ComponentChildren }): JSX.Element {
  return <span class={`badge ${kind}`}>{children}</span>;
}

/** The process of an end; a long name is cut, and whole where one points at it. */
export function Process({ name, whole }: { name: string; whole: string | undefined }): JSX.Element | null {
  return name ? (
    <>
      {" "}
      <span class="process quiet" title={whole || name}>
        {name}
      </span>
    </>
  ) : null;
}

/** A moment in UTC, with how long ago it was. */
export function When({ us, brief }: { us: Long | undefined; brief?: boolean }): JSX.Element {
  const text = moment(us);
  if (!text) return <span class="quiet">never</span>;
  return (
    <time dateTime={`${text.replace(" ", "T")}Z`} title={`${text} UTC`}>
      {brief ? ago(us) : text}
    </time>
  );
}

/** A command to copy. */
export function Command({ text }: { text: string }): JSX.Element {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  return (
    <div class="command">
      <pre tabIndex={0}>{text}</pre>
      <button type="button" class="small" onClick={copy}>
        {copied ? "Copied" : "Copy"}
      </button>
    </div>
  );
}

/** Nothing to show, why that may be, and what to do next. */
export function Empty({ title, children }: { title: string; children?: ComponentChildren }): JSX.Element {
  return (
    <section class="empty">
      <h2>{title}</h2>
      {children}
    </section>
  );
}

export function Failed({ error, again }: { error: ApiError; again: () => void }): JSX.Element {
  return (
    <section class="failed" role="alert">
      <h2>This could not be loaded</h2>
      <p>{error.message}</p>
      <button type="button" onClick={again}>
        Try again
      </button>
    </section>
  );
}

export function Loading({ what }: { what: string }): JSX.Element {
  return (
    <p class="loading" role="status">
      Loading {what} …
    </p>
  );
}

export function Field(props: {
  label: string;
  name: string;
  value: string;
  placeholder?: string;
  size?: number;
  type?: string;
  list?: string;
  /** Why what it says cannot be read, and how it is written. */
  wrong?: string;
}): JSX.Element {
  const { label, name, value, wrong, ...rest } = props;
  const id = useId();
  const told = wrong ? { "aria-invalid": true, "aria-describedby": `${id}-wrong` } : {};
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input id={id} name={name} defaultValue={value} autocomplete="off" spellcheck={false} {...told} {...rest} />
      {wrong && (
        <p id={`${id}-wrong`} class="error">
          {wrong}
        </p>
      )}
    </div>
  );
}

export function Choice(props: {
  label: string;
  name?: string;
  value: string;
  options: readonly (readonly [value: string, text: string])[];
  onChange?: (value: string) => void;
}): JSX.Element {
  return (
    <label class="field">
      <span>{props.label}</span>
      <select name={props.name} value={props.value} onChange={(event) => props.onChange?.(event.currentTarget.value)}>
        {props.options.map(([value, text]) => (
          <option key={value} value={value} selected={value === props.value}>
            {text}
          </option>
        ))}
      </select>
    </label>
  );
}
