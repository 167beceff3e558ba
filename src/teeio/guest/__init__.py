"""The TVM: what runs inside the trust domain and decides which device it trusts.

All that it can do goes through `abi`: TDCALLs to the TSM, whose answers it believes, hypercalls to the VMM, whose
answers it does not, and the loads and stores of its processor.
"""
