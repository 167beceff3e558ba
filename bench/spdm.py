"""SPDM: CPU of a P-384 flow in both roles, messages decoded and decrypted, sessions a second of one responder process.

    PYTHONPATH=src:tests python bench/spdm.py [--json] [--capture FILE.pcap --keys FILE]

With TEEIO_SPDM_EMU and TEEIO_SPDM_EMU_OPENSSL (bin folders of built spdm-emus) the flow is compared with the reference emulator's; with
TEEIO_SPDM_DUMP (the reference dissector) decoding is compared too.
"""

from __future__ import annotations

from pathlib import Path

from figures import Figures, options
from spdm_captures import capture_figures
from spdm_connections import connection_figures
from spdm_flow import flow_figures


def main() -> None:
    """Measure."""
    chosen = options(
        "SPDM: flow, dissection, connections.",
        ("--capture", {"type": Path, "help": "pcap file to dissect instead of a recording"}),
        ("--keys", {"type": Path, "help": "its key log"}),
    )
    figures = Figures("SPDM")
    flow_figures(figures, chosen.seconds)
    capture_figures(figures, chosen.seconds, chosen.capture, chosen.keys)
    connection_figures(figures)
    figures.show(chosen.json)


if __name__ == "__main__":
    main()
