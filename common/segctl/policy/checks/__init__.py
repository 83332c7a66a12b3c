"""What `segctl check` looks for, one idea a module. Each is a pure function from a policy to findings."""
