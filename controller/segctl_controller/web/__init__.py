"""The web UI: a static bundle, sign-in, and the Admin service as JSON, on a listener of its own."""
