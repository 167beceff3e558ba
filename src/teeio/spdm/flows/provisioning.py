"""Provisioning a device: certificate requests, slots, key pairs (DSP0274 1.2 and 1.3).

A device that must be reset first answers with ERROR ResetRequired: it comes as `ErrorResponse`, whose `data` is the tracking tag by
which GET_CSR is asked again after the reset (1.3).
"""

from __future__ import annotations

from teeio.crypto.certificates import CertificateModel, check_request
from teeio.crypto.keys import Asym
from teeio.errors import Misuse, PeerViolation
from teeio.flow import Flow
from teeio.spdm import messages as m
from teeio.spdm.asking import Asker
from teeio.spdm.constants import Capability, KeyPairOperation, Version
from teeio.spdm.device_state import KeyUsage
from teeio.spdm.exchange import ask
from teeio.spdm.flows.identity import large_form
from teeio.spdm.provisioning import asym_bits


def _names(requester: Asker, key_pair_id: int, model: CertificateModel) -> tuple[int, int]:
    """Give the fields that name key pair and model: both on a multi-key connection, neither elsewhere."""
    if requester.connection.multi_key:
        if not key_pair_id:
            raise Misuse("a multi-key connection needs a KeyPairID", remedy="give key_pair_id, 1 or more")
        return key_pair_id, model.value
    if key_pair_id:
        raise Misuse("a KeyPairID needs a multi-key connection", remedy="negotiate it with Settings.multi_key")
    return 0, 0


def get_csr(
    requester: Asker,
    *,
    key_pair_id: int = 0,
    model: CertificateModel = CertificateModel.DEVICE,
    requester_info: bytes = b"",
    tracking_tag: int = 0,
    overwrite: bool = False,
    session: int | None = None,
) -> Flow[bytes]:
    """Get a PKCS#10 request in DER; it is signed by the key it names. `requester_info` is DER (CertificationRequestInfo)."""
    number, kind = _names(requester, key_pair_id, model)
    response = yield from ask(
        m.GetCsr(
            key_pair_id=number,
            certificate_model=kind,
            tracking_tag=tracking_tag,
            overwrite=int(overwrite),
            requester_info=requester_info,
        ),
        session,
    )
    check_request(response.csr)
    return response.csr


def set_certificate(
    requester: Asker,
    slot: int,
    chain: bytes,
    *,
    key_pair_id: int = 0,
    model: CertificateModel = CertificateModel.DEVICE,
    session: int | None = None,
) -> Flow[None]:
    """Write a certificate chain structure into `slot`; what was read of the slot before is forgotten."""
    number, kind = _names(requester, key_pair_id, model)
    request = m.SetCertificate(slot=slot, chain=chain, key_pair_id=number, certificate_model=kind)
    yield from _written(requester, request, session)


def erase_certificate(requester: Asker, slot: int, *, key_pair_id: int = 0, session: int | None = None) -> Flow[None]:
    """Erase `slot` (1.3)."""
    if requester.connection.version < Version.V1_3:
        raise Misuse("slots are erased from SPDM 1.3 on", remedy="negotiate 1.3")
    request = m.SetCertificate(slot=slot, erase=1, key_pair_id=key_pair_id)
    yield from _written(requester, request, session)


def _written(requester: Asker, request: m.SetCertificate, session: int | None) -> Flow[None]:
    response = yield from ask(request, session)
    if response.slot & 0xF != request.slot:
        raise PeerViolation(
            f"slot {response.slot} was written instead of {request.slot}", "DSP0274 SET_CERTIFICATE_RSP"
        )
    requester.chains.pop(request.slot, None)


def get_slot_size(requester: Asker, slot: int = 0, session: int | None = None) -> Flow[int]:
    """Get the number of bytes that `slot` can hold (1.3)."""
    if requester.connection.version < Version.V1_3:
        raise Misuse("the size of a slot can be asked for from SPDM 1.3 on", remedy="negotiate 1.3")
    large = large_form(requester)
    response = yield from ask(m.GetCertificate(slot=slot, slot_size_requested=1, large=int(large)), session)
    if response.portion or response.large_portion:
        raise PeerViolation("bytes of the chain came where only its size was asked for", "DSP0274 CERTIFICATE")
    return response.large_remainder_length if large else response.remainder_length


def get_key_pair_info(requester: Asker, key_pair_id: int, session: int | None = None) -> Flow[m.KeyPairInfo]:
    """Get what a key pair is and can. Raises `PeerViolation` where the answer contradicts itself."""
    info = yield from ask(m.GetKeyPairInfo(key_pair_id=key_pair_id), session)
    pqc_can, pqc_now = (int.from_bytes(value, "little") for value in (info.pqc_capabilities, info.current_pqc))
    settable = requester.connection.responder_capabilities & Capability.SET_KEY_PAIR_INFO
    rules = (
        ("another key pair", info.key_pair_id == key_pair_id <= info.total),
        ("capabilities without SET_KEY_PAIR_INFO", settable or not info.capabilities),
        ("a use it does not have", not info.current_usage & ~info.usage_capabilities),
        (
            "an algorithm it does not have",
            not (info.current_asym & ~info.asym_capabilities or pqc_now & ~pqc_can),
        ),
        ("more than one algorithm", info.current_asym.bit_count() + pqc_now.bit_count() <= 1),
    )
    for problem, holds in rules:
        if not holds:
            raise PeerViolation(f"KEY_PAIR_INFO tells of {problem}", "DSP0274 KEY_PAIR_INFO")
    return info


def change_key_pair(
    requester: Asker,
    key_pair_id: int,
    *,
    slots: int,
    usage: KeyUsage | None = None,
    algorithm: Asym | None = None,
    session: int | None = None,
) -> Flow[None]:
    """Change the slots (a mask), the uses and the algorithm of a key pair; None leaves the latter two."""
    yield from ask(_settings(requester, KeyPairOperation.CHANGE, key_pair_id, slots, usage, algorithm), session)


def generate_key_pair(
    requester: Asker,
    key_pair_id: int,
    *,
    slots: int = 0,
    usage: KeyUsage | None = None,
    algorithm: Asym | None = None,
    session: int | None = None,
) -> Flow[None]:
    """Make the device generate the key of a key pair that no slot uses."""
    yield from ask(_settings(requester, KeyPairOperation.GENERATE, key_pair_id, slots, usage, algorithm), session)


def erase_key_pair(requester: Asker, key_pair_id: int, session: int | None = None) -> Flow[None]:
    """Erase the key of a key pair that no slot uses."""
    yield from ask(m.SetKeyPairInfo(operation=KeyPairOperation.ERASE, key_pair_id=key_pair_id), session)


def _settings(
    requester: Asker, operation: int, number: int, slots: int, usage: KeyUsage | None, algorithm: Asym | None
) -> m.SetKeyPairInfo:
    asym, pqc = asym_bits([algorithm] if algorithm else [])
    if pqc and requester.connection.version < Version.V1_4:
        raise Misuse("post-quantum key pairs come with SPDM 1.4", remedy="negotiate 1.4")
    return m.SetKeyPairInfo(
        operation=operation,
        key_pair_id=number,
        usage=usage or KeyUsage(0),
        asym=asym,
        slots=slots,
        pqc=int(pqc).to_bytes(4, "little"),
    )
