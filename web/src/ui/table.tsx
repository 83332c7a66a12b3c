// A table that shows a part of what it holds at first, and whose rows may open. The roles are said because narrow
// windows show rows as blocks, which would take them away.
import type { ComponentChildren, JSX } from "preact";
import { useState } from "preact/hooks";
import { count } from "../format";

export interface Column<T> {
  head: string;
  cell: (row: T) => ComponentChildren;
  number?: boolean;
  /** Stays on one line, however narrow it gets. */
  short?: boolean;
  /** The cell that names the row. */
  names?: boolean;
}

const PAGE = 100;

export function Table<T>(props: {
  caption: string;
  columns: readonly Column<T>[];
  rows: readonly T[];
  keyOf: (row: T) => string;
  more?: (row: T) => ComponentChildren;
  /** Keys of rows that are open at first. */
  opened?: string;
}): JSX.Element {
  const { caption, columns, rows, keyOf, more } = props;
  const [shown, setShown] = useState(PAGE);
  const [open, setOpen] = useState<ReadonlySet<string>>(() => new Set(props.opened ? [props.opened] : []));
  const toggle = (key: string) =>
    setOpen((before) => {
      const after = new Set(before);
      if (!after.delete(key)) after.add(key);
      return after;
    });
  return (
    <div class="table">
      <table role="table">
        <caption>{caption}</caption>
        <thead role="rowgroup">
          <tr role="row">
            {columns.map((column) => (
              <th key={column.head} scope="col" role="columnheader" class={column.number ? "number" : undefined}>
                {column.head}
              </th>
            ))}
            {more && (
              <th scope="col" role="columnheader">
                <span class="unseen">Details</span>
              </th>
            )}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {rows.slice(0, shown).flatMap((row) => {
            const key = keyOf(row);
            const isOpen = open.has(key);
            const cells = columns.map((column) => {
              const content = column.cell(row);
              const kind = column.number ? "number" : column.short ? "short" : undefined;
              return column.names ? (
                <th key={column.head} scope="row" role="rowheader" class={kind} data-head={column.head}>
                  {content}
                </th>
              ) : (
                <td key={column.head} role="cell" class={kind} data-head={column.head}>
                  {content}
                </td>
              );
            });
            const line = (
              <tr key={key} role="row" class={isOpen ? "open" : undefined}>
                {cells}
                {more && (
                  <td role="cell" class="opener">
                    <button type="button" class="small" aria-expanded={isOpen} onClick={() => toggle(key)}>
                      {isOpen ? "Close" : "Details"}
                    </button>
                  </td>
                )}
              </tr>
            );
            if (!more || !isOpen) return [line];
            return [
              line,
              <tr key={`${key} more`} role="row" class="more">
                <td role="cell" colSpan={columns.length + 1}>{more(row)}</td>
              </tr>,
            ];
          })}
        </tbody>
      </table>
      {rows.length > shown && (
        <button type="button" onClick={() => setShown(shown + PAGE)}>
          Show {count(Math.min(PAGE, rows.length - shown))} more of {count(rows.length)}
        </button>
      )}
    </div>
  );
}
