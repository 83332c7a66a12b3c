"""The kernel protocol: rulesets as values, netlink, plan, apply, evaluate."""
