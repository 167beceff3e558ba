"""`teeio run`: take one device through its whole trusted life and show it."""

from __future__ import annotations


def run() -> None:
    """Placeholder until the platform is joined."""
