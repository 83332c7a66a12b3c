"""The agent: one host's policy in its kernel, its denials on their way back."""
