"""What the responder does when it is provisioned: GET_CSR, SET_CERTIFICATE (1.2), GET_ and SET_KEY_PAIR_INFO (1.3).

Nothing is stored before it has been checked: the chain must parse, each certificate must be signed by the one before, the leaf must
keep the leaf profile and must certify the device's own key (in the Alias model: see `alias`). Whether the root deserves trust is not
the device's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from teeio.crypto.algorithms import BaseAsym, OpaqueDataFormat, PqcAsym
from teeio.crypto.certificates import (
    CertificateModel,
    Leaf,
    algorithm_identifier,
    certificate_request,
    check_integrity,
    check_issuer,
    errors,
    is_sequence,
    leaf_findings,
    leaf_public_key,
    load_certificate,
    split_certificates,
)
from teeio.crypto.certificates.chain import CertificateChain, ChainFacts
from teeio.crypto.entropy import Entropy
from teeio.crypto.kdf import digest, equal
from teeio.crypto.keys import SigningKey, public_key_der
from teeio.errors import AuthenticationFailed, DecodeError, Reject
from teeio.spdm import messages as m
from teeio.spdm.alias import alias_slot, certified, usual_model, with_leaf
from teeio.spdm.call import Call
from teeio.spdm.constants import Capability, ErrorCode, KeyPairOperation, Version
from teeio.spdm.device_state import Identity, KeyUsage, Slot
from teeio.spdm.opaque import MAX_OPAQUE
from teeio.spdm.provisioning import (
    SLOTS,
    CsrOrder,
    KeyPair,
    KeyPairAsym,
    KeyPairCapability,
    Provisioning,
    asym_bits,
    model_of,
)

if TYPE_CHECKING:
    from teeio.spdm.responder import Responder

_PADDING = 3
"""Zero bytes that a transport may have put behind a chain outside a session."""


def _provisioning(r: Responder, code: int) -> Provisioning:
    if r.provisioning is None:
        raise Reject(ErrorCode.UNSUPPORTED_REQUEST, "this device cannot be provisioned", code)
    return r.provisioning


def _invalid(reason: str, clause: str) -> Reject:
    return Reject(ErrorCode.INVALID_REQUEST, f"{reason} (DSP0274 {clause})")


def _failed(reason: str, clause: str) -> Reject:
    return Reject(ErrorCode.OPERATION_FAILED, f"{reason} (DSP0274 {clause})")


def _key_of(
    r: Responder, store: Provisioning, slot: int, key_pair_id: int, model: int, clause: str
) -> tuple[SigningKey, CertificateModel]:
    """Give the key that a request is about, and its certificate's model.

    On a multi-key connection the request names both; elsewhere both fields are 0 and the slot's own key is meant.
    """
    if not r.connection.multi_key:
        if key_pair_id or model:
            raise _invalid("KeyPairID and certificate model are 0 without a multi-key connection", clause)
        slots, usual = r.identity.slots, usual_model(r.connection.responder_capabilities)
        found = alias_slot(r.identity, slot) if usual is CertificateModel.ALIAS else None
        return certified(found or slots[slot if slot in slots else min(slots)])[0], usual
    key = store.pair(key_pair_id).key
    if not r.connection.asym:
        raise _invalid("no signature algorithm was negotiated", clause)
    traditional, post_quantum = asym_bits([r.connection.asym])
    if key is None or asym_bits([key.algorithm]) != (traditional, post_quantum):
        raise _invalid(f"key pair {key_pair_id} has no key of the negotiated algorithm", clause)
    return SigningKey(r.connection.asym, key.key), model_of(model)


# -- GET_CSR ------------------------------------------------------------------------------------------------------------


def get_csr(r: Responder, request: m.GetCsr, call: Call) -> m.Response:
    """Make a certificate request, or order it for the next reset."""
    store = _provisioning(r, m.GetCsr.CODE)
    resets = bool(r.connection.responder_capabilities & Capability.CERT_INSTALL_RESET)
    if len(request.opaque) > MAX_OPAQUE or (
        request.opaque and r.connection.opaque_format == OpaqueDataFormat(0) and r.connection.version >= Version.V1_2
    ):
        raise _invalid(f"{len(request.opaque)} bytes of opaque data", "GET_CSR")
    if request.requester_info and not is_sequence(request.requester_info):
        raise _invalid("RequesterInfo is not one DER SEQUENCE", "GET_CSR")
    if request.tracking_tag and (request.overwrite or not resets):
        raise _invalid("a tracking tag goes with CERT_INSTALL_RESET and without Overwrite", "GET_CSR")
    key, _ = _key_of(r, store, 0, request.key_pair_id, request.certificate_model, "GET_CSR")
    certificate = _present_certificate(r.identity, key)
    if resets:
        return _ordered(r, store, request, CsrOrder(_asked(call.request), key, certificate, r.connection.base_hash))
    return m.Csr(csr=certificate_request(key, certificate, r.connection.base_hash))


def _present_certificate(identity: Identity, key: SigningKey) -> bytes:
    """Give the certificate that a key has now, or of a key without one that of the first slot's."""
    wanted, slots = public_key_der(key.public), [identity.slots[number] for number in sorted(identity.slots)]
    same = [slot for slot in slots if public_key_der(certified(slot)[0].public) == wanted]
    return certified((same or slots)[0])[1]


def _asked(request: bytes) -> bytes:
    """Give a GET_CSR without its attributes, so that it is known again with a tracking tag."""
    return request[:3] + bytes(1) + request[4:]


def _ordered(r: Responder, store: Provisioning, request: m.GetCsr, order: CsrOrder) -> m.Response:
    """Give what was ordered before the last reset, or order it (1.2: one order; 1.3: up to seven, by tracking tag)."""
    tagged = r.connection.version >= Version.V1_3
    if request.overwrite:
        store.orders.clear()
    tag = request.tracking_tag
    if not tagged:
        tag = next((number for number, old in store.orders.items() if old.request == order.request), 0)
    found = store.orders.get(tag)
    if tag and (found is None or found.request != order.request):
        raise Reject(ErrorCode.UNEXPECTED_REQUEST, f"no CSR with tracking tag {tag} (DSP0274 GET_CSR)")
    if found is not None and found.made:
        del store.orders[tag]
        return m.Csr(csr=found.made)
    if found is None:
        tag = store.order(order)
    raise Reject(ErrorCode.RESET_REQUIRED, "the CSR is made at the next reset (DSP0274 GET_CSR)", tag if tagged else 0)


# -- SET_CERTIFICATE ----------------------------------------------------------------------------------------------------


def set_certificate(r: Responder, request: m.SetCertificate, call: Call) -> m.Response:
    """Write or erase a slot."""
    store = _provisioning(r, m.SetCertificate.CODE)
    clause = "SET_CERTIFICATE"
    if request.slot >= SLOTS or not store.supported_slots >> request.slot & 1:
        raise _invalid(f"there is no slot {request.slot}", clause)
    if not store.trusted_environment and (request.slot == 0 or call.session is None):
        raise Reject(
            ErrorCode.UNEXPECTED_REQUEST,
            "slot 0 is written in a trusted environment, other slots inside a session (DSP0274 SET_CERTIFICATE)",
        )
    if request.erase:
        _check_erasure(r, store, request)
    written = None if request.erase else _checked(r, store, request, call)
    identity = r.identity
    if r.connection.responder_capabilities & Capability.CERT_INSTALL_RESET:
        store.stage(identity, request.slot, written)
        raise Reject(ErrorCode.RESET_REQUIRED, "the slot changes at the next reset (DSP0274 SET_CERTIFICATE)")
    store.put(identity, request.slot, written)
    return m.SetCertificateRsp(slot=request.slot)


def _check_erasure(r: Responder, store: Provisioning, request: m.SetCertificate) -> None:
    if request.certificate_model or len(request.chain) > _PADDING or any(request.chain):
        raise _invalid("to erase, the model is 0 and the chain is absent", "SET_CERTIFICATE")
    if r.connection.multi_key:
        store.pair(request.key_pair_id)
    elif request.key_pair_id:
        raise _invalid("KeyPairID is 0 without a multi-key connection", "SET_CERTIFICATE")
    identity = r.identity
    left = {slot for slot in identity.slots if slot != request.slot and not store.is_staged(identity, slot)}
    if request.slot not in identity.slots or not left:
        raise _failed("the slot is empty, or the last one with a chain", "SET_CERTIFICATE")


def _checked(r: Responder, store: Provisioning, request: m.SetCertificate, call: Call) -> Slot:
    key, model = _key_of(r, store, request.slot, request.key_pair_id, request.certificate_model, "SET_CERTIFICATE")
    base_hash = r.connection.base_hash
    chain, used = CertificateChain.decode_prefix(request.chain, ChainFacts(base_hash.size))
    rest = request.chain[used:]
    if any(rest) or len(rest) > (0 if call.session else _PADDING):
        raise _invalid(f"{len(rest)} bytes behind the chain", "SET_CERTIFICATE")
    if used > store.slot_size:
        raise _failed(f"a chain of {used} bytes, the slot holds {store.slot_size}", "SET_CERTIFICATE")
    certificates = tuple(split_certificates(chain.certificates))
    alias = alias_slot(r.identity, request.slot, key) if model is CertificateModel.ALIAS else None
    if model is CertificateModel.ALIAS and alias is None:
        raise _failed("the device signs no alias certificates with this key", "SET_CERTIFICATE")
    try:
        _check_chain(r, chain.root_hash, certificates, key, alias)
        if alias is not None:
            certificates = with_leaf(certificates, alias, base_hash, r.entropy)
        _check_leaf(r, certificates[-1], alias.key if alias else key, model)
    except (AuthenticationFailed, DecodeError) as error:
        raise _failed(str(error), "SET_CERTIFICATE") from None
    if model is CertificateModel.GENERIC and request.slot == 0:
        raise _invalid("slot 0 holds no generic certificate", "SET_CERTIFICATE")
    slots = r.identity.slots
    number = request.key_pair_id or slots[request.slot if request.slot in slots else min(slots)].key_pair_id
    # Without a multi-key connection all slots have one key: there is nothing to share it with.
    if r.connection.multi_key and not store.pair(number).may_serve(request.slot):
        raise _failed(f"key pair {number} cannot be shared with another slot", "SET_CERTIFICATE")
    return Slot(certificates, alias.key if alias else key, number, model, key if alias else None)


def _check_chain(
    r: Responder, root_hash: bytes, certificates: tuple[bytes, ...], key: SigningKey, alias: Slot | None
) -> None:
    """Check a chain that is to be stored, with `alias` one down to the device certificate.

    Raises `AuthenticationFailed` or `DecodeError`.
    """
    least = 2 if alias is None else 1
    if len(certificates) < least or not equal(root_hash, digest(r.connection.base_hash, certificates[0])):
        raise AuthenticationFailed("the chain does not begin with the root that RootHash names, with a leaf below it")
    check_integrity(certificates)
    if alias is not None:
        check_issuer(certificates[-1], key, basic_constraints=r.connection.version >= Version.V1_3)


def _check_leaf(r: Responder, der: bytes, key: SigningKey, model: CertificateModel) -> None:
    leaf = Leaf(load_certificate(der), r.connection.asym, model, r.connection.version, requester=False)
    found = errors(leaf_findings(leaf))
    if found:
        raise AuthenticationFailed("; ".join(str(finding) for finding in found))
    if public_key_der(leaf_public_key(der)) != public_key_der(key.public):
        raise AuthenticationFailed("the leaf certifies another key than the device's")


# -- key pairs ----------------------------------------------------------------------------------------------------------


def get_key_pair_info(r: Responder, request: m.GetKeyPairInfo, call: Call) -> m.Response:
    """Describe a key pair."""
    store = _provisioning(r, m.GetKeyPairInfo.CODE)
    pair = store.pair(request.key_pair_id)
    settable = r.connection.responder_capabilities & Capability.SET_KEY_PAIR_INFO
    can, pqc_can = asym_bits(pair.algorithms)
    now, pqc_now = asym_bits([pair.selected] if pair.selected else [])
    return m.KeyPairInfo(
        total=len(store.key_pairs),
        key_pair_id=request.key_pair_id,
        capabilities=pair.capabilities if settable else 0,
        usage_capabilities=pair.usage_capabilities,
        current_usage=pair.usage,
        asym_capabilities=can,
        current_asym=now,
        slots=pair.slots,
        public_key_info=algorithm_identifier(pair.key.public) if pair.key else b"",
        pqc_capabilities=int(pqc_can).to_bytes(4, "little"),
        current_pqc=int(pqc_now).to_bytes(4, "little"),
    )


def set_key_pair_info(r: Responder, request: m.SetKeyPairInfo, call: Call) -> m.Response:
    """Change, erase or generate a key pair, or let it wait for the reset (1.4). Everything is checked before anything changes."""
    store = _provisioning(r, m.SetKeyPairInfo.CODE)
    pair = store.pair(request.key_pair_id)
    problem = _problem(pair, request)
    if problem:
        raise _invalid(problem, "SET_KEY_PAIR_INFO")
    if not store.trusted_environment and (pair.slots & 1 or call.session is None):
        raise Reject(
            ErrorCode.UNEXPECTED_REQUEST,
            "the key pair of slot 0 changes in a trusted environment, others inside a session (as SET_CERTIFICATE)",
        )
    if request.operation in (KeyPairOperation.ERASE, KeyPairOperation.GENERATE) and (
        pair.slots or store.waits_for(request.key_pair_id)
    ):
        raise _failed(f"slots {pair.slots:#04x}, or what waits for a reset, use the key pair", "SET_KEY_PAIR_INFO")
    if request.operation != KeyPairOperation.ERASE:
        _check_associations(r, store, pair, request)
        _check_algorithm(r, pair, request)
    if r.connection.responder_capabilities & Capability.SET_KEY_PAIR_RESET:
        store.key_changes[request.key_pair_id] = lambda: _change(pair, request, r.entropy)
        raise Reject(ErrorCode.RESET_REQUIRED, "the key pair changes at the next reset (DSP0274 SET_KEY_PAIR_INFO)")
    _change(pair, request, r.entropy)
    return m.SetKeyPairInfoAck()


def _chosen(pair: KeyPair, request: m.SetKeyPairInfo) -> BaseAsym | PqcAsym | None:
    """Give the algorithm that a request names, None if it names none."""
    return next((algorithm for algorithm in pair.algorithms if _is(algorithm, request)), None)


def _check_algorithm(r: Responder, pair: KeyPair, request: m.SetKeyPairInfo) -> None:
    chosen = _chosen(pair, request)
    if request.operation == KeyPairOperation.GENERATE and chosen is None and pair.selected is None:
        raise _invalid("no algorithm to generate a key for", "SET_KEY_PAIR_INFO")
    if request.operation != KeyPairOperation.GENERATE and chosen not in (None, pair.selected) and pair.key is not None:
        raise _failed("the key must be erased before its algorithm changes", "SET_KEY_PAIR_INFO")


def _change(pair: KeyPair, request: m.SetKeyPairInfo, entropy: Entropy) -> None:
    """Do what has been checked. A key that a slot has come to use meanwhile stays as it is."""
    if request.operation in (KeyPairOperation.ERASE, KeyPairOperation.GENERATE) and pair.slots:
        return
    if request.operation == KeyPairOperation.ERASE:
        pair.key, pair.selected, pair.usage = None, None, KeyUsage(0)
        return
    selected = _chosen(pair, request) or pair.selected
    if request.operation == KeyPairOperation.GENERATE and selected is not None:
        pair.key = SigningKey.generate(selected, entropy)
    pair.selected = selected
    if request.usage:
        pair.usage = KeyUsage(request.usage)
    if pair.capabilities & KeyPairCapability.ASSOCIATE:
        pair.slots = request.slots


def _is(algorithm: BaseAsym | PqcAsym, request: m.SetKeyPairInfo) -> bool:
    return asym_bits([algorithm]) == (KeyPairAsym(request.asym), PqcAsym(int.from_bytes(request.pqc, "little")))


def _problem(pair: KeyPair, request: m.SetKeyPairInfo) -> str:
    """Say what is wrong with a SET_KEY_PAIR_INFO, or ""."""
    can, wanted = pair.capabilities, int.from_bytes(request.pqc, "little")
    asym, pqc = asym_bits(pair.algorithms)
    rules = (
        ("the operation is 0, 1 or 2", request.operation <= KeyPairOperation.GENERATE),
        (
            "the key pair cannot be generated",
            request.operation != KeyPairOperation.GENERATE or can & KeyPairCapability.GENERATE,
        ),
        ("the key pair cannot be erased", request.operation != KeyPairOperation.ERASE or can & KeyPairCapability.ERASE),
        (
            "the key pair's slots cannot be changed",
            request.slots in (0, pair.slots) or can & KeyPairCapability.ASSOCIATE,
        ),
        ("the key pair's usage cannot be changed", not request.usage or can & KeyPairCapability.USAGE),
        ("a use that the key pair does not have", not request.usage & ~int(pair.usage_capabilities)),
        (
            "the key pair's algorithm cannot be changed",
            not (request.asym or wanted) or can & KeyPairCapability.ALGORITHM,
        ),
        ("more than one algorithm", request.asym.bit_count() + wanted.bit_count() <= 1),
        ("an algorithm that the key pair does not have", not (request.asym & ~int(asym) or wanted & ~int(pqc))),
        ("the key pair serves one slot only", request.slots.bit_count() <= 1 or can & KeyPairCapability.SHARE),
    )
    return next((text for text, holds in rules if not holds), "")


def _check_associations(r: Responder, store: Provisioning, pair: KeyPair, request: m.SetKeyPairInfo) -> None:
    """Refuse to part a slot that holds a chain from the key that the chain certifies."""
    if not pair.capabilities & KeyPairCapability.ASSOCIATE:
        return
    for identity in store.identities:
        for number, slot in identity.slots.items():
            mine = bool(slot.key_pair_id) and store.pair(slot.key_pair_id) is pair
            if mine and not request.slots >> number & 1:
                raise _failed(f"slot {number} holds a chain for the key pair", "SET_KEY_PAIR_INFO")
    if request.slots & ~store.supported_slots:
        raise _invalid("a slot that does not exist", "SET_KEY_PAIR_INFO")


def slot_management(r: Responder, request: m.SlotManagement, call: Call) -> m.Response:
    """Refuse: SLOT_MGMT_CAP is never offered, since no reference settles the structures behind the sub codes."""
    raise Reject(
        ErrorCode.UNSUPPORTED_REQUEST, "SLOT_MGMT_CAP is not offered (DSP0274 1.4 SLOT_MANAGEMENT)", request.CODE
    )


PROVISIONING_HANDLERS: Mapping[int, Callable[[Responder, Any, Call], m.Response]] = {
    m.GetCsr.CODE: get_csr,
    m.SetCertificate.CODE: set_certificate,
    m.GetKeyPairInfo.CODE: get_key_pair_info,
    m.SetKeyPairInfo.CODE: set_key_pair_info,
    m.SlotManagement.CODE: slot_management,
}
"""Handlers by request code."""
