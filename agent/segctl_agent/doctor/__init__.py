"""`segctl-agent doctor`: looks at a host and changes nothing. Each module looks at one side of it: `look` gathers, and
what it means is decided by functions without I/O, named `judge_...`."""
