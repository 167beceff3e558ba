"""What one side is known by, and the checks that need it: certificate chains, put together from portions, or a provisioned public key."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from teeio.capture.findings import Finding, Verdict, compared, not_checkable
from teeio.capture.negotiated import Negotiated, Signer
from teeio.crypto.algorithms import BaseHash
from teeio.crypto.certificates import leaf_public_key, load_certificate, parse_chain
from teeio.crypto.kdf import digest
from teeio.crypto.keys import Asym, PublicKey
from teeio.errors import AuthenticationFailed, DecodeError, Incompatible
from teeio.spdm import messages as m
from teeio.spdm.byte_order import ByteOrder
from teeio.spdm.constants import PUBLIC_KEY_SLOT
from teeio.spdm.public_keys import key_hash, key_of
from teeio.spdm.signing import verify_transcript

MAX_CHAIN = 1 << 20
"""Bytes of one chain that are put together; 1.4 allows more than 64 KiB."""

MAX_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class ProvisionedKeys:
    """Public keys by which sides are known (PUB_KEY_ID), which no capture has. Of several the first that serves the algorithm counts."""

    responder: tuple[PublicKey, ...] = ()
    requester: tuple[PublicKey, ...] = ()


class Chains:
    """The chains and digests of one side's slots on one connection, or its public key.

    `remembered` has chains of others by digest, `keys` the public keys of which one may be this side's.
    """

    def __init__(self, remembered: dict[bytes, bytes] | None = None, keys: tuple[PublicKey, ...] = ()) -> None:
        self.public_key: PublicKey | None = None
        self._keys = keys
        self.by_slot: dict[int, bytes] = {}
        self.digests: dict[int, bytes] = {}
        self._portions: dict[int, bytearray] = {}
        self._remembered = {} if remembered is None else remembered

    def enter_algorithm(self, algorithm: Asym) -> None:
        """Learn the side's signature algorithm, which tells its public key."""
        self.public_key = key_of(self._keys, algorithm)

    def enter_digests(self, digests: m.Digests) -> list[Finding]:
        """Enter DIGESTS; say of which known chain it gives the digest."""
        findings = []
        for slot in digests.slots():
            value = self.digests[slot] = digests.of_slot(slot)
            known = self._remembered.get(value)
            if known is not None:
                self.by_slot[slot] = known
                findings.append(Finding(f"digest of slot {slot}", Verdict.OK))
            else:
                self.by_slot.pop(slot, None)
        return findings

    def enter_certificate(self, request: m.GetCertificate, response: m.Certificate, n: Negotiated) -> list[Finding]:
        """Enter a portion of a chain; check the chain when it is whole."""
        slot = response.slot
        offset = request.large_offset if request.large else request.offset
        portion = response.large_portion if response.large else response.portion
        rest = response.large_remainder_length if response.large else response.remainder_length
        chain = self._portions.setdefault(slot, bytearray())
        if offset == 0:
            chain.clear()
        if request.slot_size_requested or offset != len(chain) or len(chain) + len(portion) > MAX_CHAIN:
            return []
        chain += portion
        if rest or not portion:
            return []
        return self._enter_chain(slot, bytes(chain), n)

    def _enter_chain(self, slot: int, chain: bytes, n: Negotiated) -> list[Finding]:
        self.by_slot[slot] = chain
        if not n.hash_implemented:
            return [not_checkable(f"chain of slot {slot}", f"no implementation of {n.connection.base_hash!r}")]
        base_hash = n.connection.base_hash
        actual = digest(base_hash, chain)
        if len(self._remembered) < MAX_REMEMBERED:
            self._remembered[actual] = chain
        findings = [_structure(f"chain of slot {slot}", chain, base_hash)]
        if slot in self.digests:
            same = actual == self.digests[slot]
            findings.append(
                compared(f"digest of slot {slot}", same, "the chain does not have the digest that DIGESTS gave")
            )
        return findings

    def hash_of(self, slot: int, n: Negotiated) -> bytes | None:
        """Give the digest of a slot's chain: of the chain itself or, if it was not read here, as DIGESTS gave it; or the key's hash."""
        if slot == PUBLIC_KEY_SLOT:
            key = self.public_key if n.hash_implemented else None
            return None if key is None else key_hash(n.connection.base_hash, key)
        chain = self.by_slot.get(slot)
        if chain is not None and n.hash_implemented:
            return digest(n.connection.base_hash, chain)
        return self.digests.get(slot)

    def check_hash(self, check: str, slot: int, value: bytes, n: Negotiated) -> Finding:
        """Check that `value` is the digest of the chain of `slot`."""
        actual = self.hash_of(slot, n)
        if actual is None:
            return not_checkable(check, missing(slot))
        what = "hash of the public key" if slot == PUBLIC_KEY_SLOT else f"digest of the chain of slot {slot}"
        return compared(check, actual == value, f"it is not the {what}")

    def check_signature(
        self, check: str, slot: int, context: str, transcript: bytes, signature: bytes, n: Negotiated, signer: Signer
    ) -> Finding:
        """Check a signature over `transcript` with the leaf key of `slot`, or with the public key."""
        base_hash = n.connection.base_hash
        if not n.hash_implemented:
            return not_checkable(check, f"no implementation of {base_hash!r}")
        try:
            key = self._key(slot, base_hash)
        except (AuthenticationFailed, DecodeError) as error:
            return not_checkable(check, str(error))
        if key is None:
            return not_checkable(check, missing(slot))
        try:
            # The capture does not say which byte order the sides of 1.0 and 1.1 have agreed on.
            verify_transcript(key, signer.algorithm, n.connection, context, transcript, signature, ByteOrder.EITHER)
        except Incompatible as error:
            return not_checkable(check, str(error))
        except AuthenticationFailed as error:
            return Finding(check, Verdict.WRONG, str(error))
        return Finding(check, Verdict.OK)

    def _key(self, slot: int, base_hash: BaseHash) -> PublicKey | None:
        if slot == PUBLIC_KEY_SLOT:
            return self.public_key
        chain = self.by_slot.get(slot)
        return None if chain is None else _leaf_key(chain, base_hash)


def missing(slot: int) -> str:
    """Say that what a signer is known by is not there."""
    if slot == PUBLIC_KEY_SLOT:
        return "the provisioned public key is not known: no capture has it"
    return f"the certificate chain of slot {slot} is not in the capture"


@lru_cache(maxsize=MAX_REMEMBERED)
def _leaf_key(chain: bytes, base_hash: BaseHash) -> PublicKey:
    return leaf_public_key(parse_chain(chain, base_hash)[1][-1])


def _structure(check: str, chain: bytes, base_hash: BaseHash) -> Finding:
    try:
        root_hash, certificates = parse_chain(chain, base_hash)
        if digest(base_hash, certificates[0]) == root_hash:
            return Finding(check, Verdict.OK)
        first = load_certificate(certificates[0])
    except DecodeError as error:
        return Finding(check, Verdict.WRONG, str(error))
    if first.issuer != first.subject:
        return not_checkable(check, "the chain begins below its root, whose hash it gives")
    return Finding(check, Verdict.WRONG, "RootHash is not the hash of the root certificate")
