"""The lab: a small fleet in Linux namespaces that the tests, `make demo` and `make lab` share."""
