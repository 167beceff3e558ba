"""IDE_KM: key management for IDE streams inside a secure SPDM session (PCIe Base 6.33)."""
