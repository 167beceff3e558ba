"""A TEE-I/O device: its security manager, its TDIs, its functions behind a PCIe port, and what they compute."""
