"""teeio: PCIe TEE-I/O (SPDM, IDE, TDISP) in software, both sides of every protocol and the platform they run on."""

__version__ = "0.1.0"
