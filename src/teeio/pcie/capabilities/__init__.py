"""The registers of configuration space, one capability a file, each declared once."""
