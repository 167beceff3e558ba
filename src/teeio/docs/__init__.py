"""Writes the tables of `docs/generated` from the declarations in the code: `python -m teeio.docs`."""
