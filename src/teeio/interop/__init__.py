"""Our two roles against the DMTF reference emulator, over a declared grid of what can be negotiated."""
