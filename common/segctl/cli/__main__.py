"""`python -m segctl.cli`."""

from segctl.cli.main import main

main()
