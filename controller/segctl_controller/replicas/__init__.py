"""Several controllers on one database, all alike: each has the sessions of some hosts, and all know of all hosts."""
