"""HostPolicy and HostFacts to a Ruleset. Pure."""
