"""The grid, by rules: which cells there are, and which of them make the quick grid.

The main part covers, with 381 cells, every transport with every version and signature algorithm, every pair of a group and a
cipher for every transport and version, and every signature algorithm with every such pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe
from teeio.interop.cells import Cell, Grid, KeyUpdates, Step
from teeio.interop.special import special
from teeio.spdm.constants import MutualAuth, Version
from teeio.transport.kinds import Transport

TRANSPORTS = (Transport.MCTP, Transport.PCI_DOE, Transport.TCP)
WITH_SESSIONS = tuple(version for version in Version if version > Version.V1_0)
ASYM = (
    BaseAsym.ECDSA_P256,
    BaseAsym.ECDSA_P384,
    BaseAsym.ECDSA_P521,
    BaseAsym.RSASSA_2048,
    BaseAsym.RSASSA_3072,
    BaseAsym.RSAPSS_2048,
    BaseAsym.RSAPSS_3072,
)
REQ_ASYM = (*ASYM, BaseAsym.RSASSA_4096, BaseAsym.RSAPSS_4096)
GROUPS = (Dhe.SECP256R1, Dhe.SECP384R1, Dhe.SECP521R1, Dhe.FFDHE_2048, Dhe.FFDHE_3072)
AEAD = (Aead.AES_128_GCM, Aead.AES_256_GCM, Aead.CHACHA20_POLY1305)
HASHES = (BaseHash.SHA_256, BaseHash.SHA_384, BaseHash.SHA_512)
PAIRS = tuple(product(GROUPS, AEAD))

ROUNDS = 2
"""How often each block (a transport with a version) goes through all pairs."""


def main() -> Iterator[Cell]:
    """Give the main part.

    In block b the pair p is met ROUNDS times, with the signature algorithms p + ROUNDS * b and those after it: four blocks
    show a pair all seven.
    """
    for turn, (transport, asym) in enumerate(product(TRANSPORTS, ASYM)):
        base_hash = HASHES[turn % len(HASHES)]
        yield Cell(grid=Grid.MAIN, case="", version=Version.V1_0, transport=transport, asym=asym, base_hash=base_hash)
    for block, (transport, version) in enumerate(product(TRANSPORTS, WITH_SESSIONS)):
        for again, (at, (group, aead)) in product(range(ROUNDS), enumerate(PAIRS)):
            turn = at + ROUNDS * block + again
            yield Cell(
                grid=Grid.MAIN,
                case="",
                version=version,
                transport=transport,
                asym=ASYM[turn % len(ASYM)],
                group=group,
                aead=aead,
                base_hash=HASHES[(turn + at // len(HASHES)) % len(HASHES)],
                clear=turn % 2 == 0,
            )


def mutual() -> Iterator[Cell]:
    """Give every version and transport with every mode of mutual authentication, with and without the basic one."""
    combinations = product(WITH_SESSIONS, TRANSPORTS, MutualAuth, (False, True))
    for turn, (version, transport, mode, basic) in enumerate(combinations):
        yield Cell(
            grid=Grid.MUTUAL,
            case="" if basic or mode is not MutualAuth.NONE else "not asked for",
            version=version,
            transport=transport,
            mode=mode,
            basic=basic,
            req_asym=REQ_ASYM[turn % len(REQ_ASYM)],
            connection=(Step.DIGESTS, Step.CERTIFICATE, Step.CHALLENGE),
            session=(Step.KEY_EXCHANGE, Step.HEARTBEAT, Step.KEY_UPDATE),
            key_updates=KeyUpdates.RESPONDER,
            slot_count=1,
        )


def full() -> tuple[Cell, ...]:
    """Give all cells."""
    return (*main(), *mutual(), *special())


def quick() -> tuple[Cell, ...]:
    """Give a sample of all parts: every version, transport, algorithm and mode is in it, and each special case once."""
    once = {cell.case: cell for cell in special()}
    return (*tuple(main())[::13], *tuple(mutual())[::9], *once.values())
