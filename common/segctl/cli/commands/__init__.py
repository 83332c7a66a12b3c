"""The commands, one module for each group of verbs; `segctl.cli.main` imports them when they are called."""
