"""Settings of all tests."""

from hypothesis import settings

# Layouts are compiled on first use, and CI machines are noisy: a deadline would only measure that.
settings.register_profile("teeio", deadline=None, derandomize=True)
settings.load_profile("teeio")
