"""The command line `segctl`."""
