"""What the controller remembers: one Protocol, an SQLite implementation and an in-memory one."""
