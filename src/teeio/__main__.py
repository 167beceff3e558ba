"""`python -m teeio` is the `teeio` command."""

from teeio.cli import main

main()
