"""`python -m teeio.docs [--check] DIR` writes the tables of `DIR/generated`.

With `--check` nothing is written; it fails if a table is not what the code says.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from teeio.docs import commands, hardware, protocols, unconfirmed

PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "spdm.md": protocols.spdm_page,
    "tdisp.md": protocols.tdisp_page,
    "ide_km.md": protocols.ide_km_page,
    "registers.md": hardware.registers_page,
    "tlps.md": hardware.tlps_page,
    "calls.md": commands.calls_page,
    "iommu.md": hardware.iommu_page,
    "exit_codes.md": commands.exit_codes_page,
    "operations.md": commands.operations_page,
    "attacks.md": commands.attacks_page,
    "exploration.md": commands.exploration_page,
    "faults.md": commands.faults_page,
    "unconfirmed.md": unconfirmed.unconfirmed_page,
}


def generate() -> dict[str, str]:
    """Give every page's text by its file name."""
    return {name: "\n".join(page()).rstrip() + "\n" for name, page in PAGES.items()}


def main(arguments: Sequence[str]) -> int:
    """Write or check the pages; 1 if a check fails."""
    check = "--check" in arguments
    folder = Path(next((item for item in arguments if not item.startswith("-")), "docs")) / "generated"
    stale = [
        name
        for name, text in generate().items()
        if not (folder / name).is_file() or (folder / name).read_text() != text
    ]
    if check:
        for name in stale:
            sys.stderr.write(f"{folder / name} is not what the code says: run `python -m teeio.docs {folder.parent}`\n")
        return int(bool(stale))
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in generate().items():
        (folder / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
