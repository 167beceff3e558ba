"""SPDM (DSP0274 1.0 to 1.4) and secured messages (DSP0277): messages, rules, key schedule, requester and responder, sans I/O."""
