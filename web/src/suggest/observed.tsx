// Flows that suggestions are made of, as a table.
import { count } from "../format";
import type { ObservedFlows } from "../messages";
import { When } from "../ui/parts";
import type { Column } from "../ui/table";

export const observedKey = (one: ObservedFlows): string => `${one.source} ${one.destination} ${one.service}`;

export const OBSERVED: readonly Column<ObservedFlows>[] = [
  { head: "From", names: true, cell: (one) => one.source },
  { head: "To", cell: (one) => one.destination },
  { head: "Service", cell: (one) => one.service },
  { head: "Flows", number: true, cell: (one) => count(one.flows) },
  { head: "Hosts", number: true, cell: (one) => count(one.hosts) },
  { head: "Last seen", cell: (one) => <When us={one.last_seen_us} brief /> },
];
