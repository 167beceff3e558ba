"""The command line: `teeio run`, `device`, `connect` and `decode`."""

from teeio.cli.app import main

__all__ = ["main"]
