"""Named stories on the platform: the trusted life of a device, and each attack on it."""
