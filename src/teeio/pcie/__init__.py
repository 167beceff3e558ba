"""PCI Express: configuration space, DOE, TLPs, IDE and the link between two ports. It knows no SPDM and no TDISP."""
