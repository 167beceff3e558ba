"""Captures: reading and writing pcap files, key logs, dissecting what was exchanged, and showing it as text or JSON."""
