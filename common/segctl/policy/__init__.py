"""The policy core: parse, check, decide, compile, diff and explain. Pure functions on the values of `segctl.model`."""
