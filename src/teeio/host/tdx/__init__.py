"""The TSM of the host: the TDX module, which owns all tables, and its TPA, which speaks SPDM with devices."""
