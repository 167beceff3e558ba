"""CXL's protocols inside a secure SPDM session: IDE key management (CXL 3.0) and TSP, the TEE Security Protocol (3.1).

A small model of one port and one target: it keeps what is set and refuses what is illegal in its state. It encrypts
no link and no memory.
"""

STANDARD_ID = 3
"""StandardID of the vendor-defined SPDM message. CXL uses PCI-SIG's registry with its own vendor ID."""
VENDOR_ID = b"\x98\x1e"
"""CXL's VendorID 0x1E98."""
