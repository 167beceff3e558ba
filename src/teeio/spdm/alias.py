"""The Alias certificate model (DSP0274 1.2, ALIAS_CERT_CAP): the device signs its own leaf below what its maker has certified.

The maker's chain ends in the device certificate, which is an authority. GET_CSR asks for another one of these, SET_CERTIFICATE brings
a chain that ends in one, and the device appends a leaf for its alias key. UNCONFIRMED: that KeyPairID of a multi-key connection means
the device key, which the stored chain certifies, and not the alias key, which signs.
"""

from __future__ import annotations

from teeio.crypto.algorithms import BaseHash
from teeio.crypto.certificates import Authority, CertificateModel
from teeio.crypto.entropy import Entropy
from teeio.crypto.keys import SigningKey, public_key_der
from teeio.errors import AuthenticationFailed
from teeio.spdm.constants import Capability
from teeio.spdm.device_state import Identity, Slot


def usual_model(responder: Capability) -> CertificateModel:
    """Give the model of a responder's chains where the messages do not tell it: without a multi-key connection."""
    return CertificateModel.ALIAS if responder & Capability.ALIAS_CERT else CertificateModel.DEVICE


def certified(slot: Slot) -> tuple[SigningKey, bytes]:
    """Give the key that the slot's stored chain certifies, and that key's certificate."""
    if slot.device_key is None:
        return slot.key, slot.certificates[-1]
    return slot.device_key, slot.certificates[-2]


def alias_slot(identity: Identity, number: int, device_key: SigningKey | None = None) -> Slot | None:
    """Give the slot whose alias key a new leaf is for: `number`, or the first one, of those that `device_key` certifies (None: any)."""
    wanted = None if device_key is None else public_key_der(device_key.public)
    order = sorted(identity.slots, key=lambda slot: (slot != number, slot))
    for slot in (identity.slots[at] for at in order):
        if slot.device_key is not None and wanted in (None, public_key_der(slot.device_key.public)):
            return slot
    return None


def with_leaf(stored: tuple[bytes, ...], slot: Slot, base_hash: BaseHash, entropy: Entropy) -> tuple[bytes, ...]:
    """Append to a stored chain the leaf of `slot`, signed anew by the device key unless its issuer's certificate has stayed."""
    if slot.device_key is None:
        raise AuthenticationFailed("the device has no key to sign alias certificates with")
    if stored[-1] == slot.certificates[-2]:
        return (*stored, slot.certificates[-1])
    issuer = Authority("", slot.device_key, base_hash, stored)
    return (*stored, issuer.renew(slot.certificates[-1], entropy))
