"""What conntrack knows, in terms of the policy: flows observed, a draft's impact, sessions that must end."""
