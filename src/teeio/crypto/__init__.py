"""Cryptography as SPDM and IDE need it: a thin layer over pyca/cryptography, whose only user this package is."""
