"""One module for each family of figures; each has `measure(quick: bool) -> list[Row]`."""
