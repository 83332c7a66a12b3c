"""One module for each family of figures of a fleet; `measure(quick)` gives its rows, `SECONDS` bounds a full run."""
