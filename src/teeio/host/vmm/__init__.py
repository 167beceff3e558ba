"""The untrusted VMM: finds devices, assigns them, runs TVMs, and carries what the TSM and devices say to each other."""
