"""Accepted flows: told by agents in columns, stored by the minute, read by tag group, host and service."""
