"""The host: physical memory, secure EPT, IOMMU and root complex; the TSM (tdx) and the untrusted VMM (vmm)."""
