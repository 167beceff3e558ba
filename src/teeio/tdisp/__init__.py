"""TDISP 1.0, the TEE Device Interface Security Protocol (PCIe Base chapter 11)."""
