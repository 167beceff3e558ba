"""GET_CSR, SET_CERTIFICATE, GET_KEY_PAIR_INFO and SET_KEY_PAIR_INFO with their responses (DSP0274)."""

from __future__ import annotations

from teeio.spdm.constants import Version
from teeio.spdm.messages.base import Request, Response, message
from teeio.wire import REST, bits, blob, length_of, reserved, reserved_bits, u8, u16, u32


@message(0xED, "GET_CSR")
class GetCsr(Request["Csr"]):
    """Ask for a certificate signing request."""

    key_pair_id: int = u8("KeyPairID", since=Version.V1_3, held=True, default=0)
    certificate_model: int = bits(3, "Certificate model", of=1, since=Version.V1_3, default=0)
    tracking_tag: int = bits(3, "CSRTrackingTag", since=Version.V1_3, default=0)
    _param2: None = reserved_bits(1)
    overwrite: int = bits(1, "Overwrite", since=Version.V1_3, default=0)
    requester_info_length: None = length_of("requester_info", 2)
    opaque_length: None = length_of("opaque", 2)
    requester_info: bytes = blob("requester_info_length", "RequesterInfo", default=b"")
    opaque: bytes = blob("opaque_length", "OpaqueData", default=b"")


@message(0x6D, "CSR")
class Csr(Response):
    """Answer GET_CSR."""

    _params: None = reserved(2)
    csr_length: None = length_of("csr", 2)
    _reserved: None = reserved(2)
    csr: bytes = blob("csr_length", "PKCS#10 in DER")


@message(0xEE, "SET_CERTIFICATE")
class SetCertificate(Request["SetCertificateRsp"]):
    """Write a certificate chain into a slot, or erase it."""

    slot: int = bits(4, "SlotID", of=1)
    certificate_model: int = bits(3, "Certificate model", since=Version.V1_3, default=0)
    erase: int = bits(1, "Erase", since=Version.V1_3, default=0)
    key_pair_id: int = u8("KeyPairID", since=Version.V1_3, held=True, default=0)
    chain: bytes = blob(REST, "Certificate chain structure", default=b"")


@message(0x6E, "SET_CERTIFICATE_RSP")
class SetCertificateRsp(Response):
    """Answer SET_CERTIFICATE."""

    slot: int = u8("SlotID")
    _param2: None = reserved(1)


@message(0xFC, "GET_KEY_PAIR_INFO")
class GetKeyPairInfo(Request["KeyPairInfo"]):
    """Ask about a key pair."""

    _params: None = reserved(2)
    key_pair_id: int = u8("KeyPairID")


@message(0x7C, "KEY_PAIR_INFO")
class KeyPairInfo(Response):
    """Answer GET_KEY_PAIR_INFO."""

    _params: None = reserved(2)
    total: int = u8("TotalKeyPairs")
    key_pair_id: int = u8("KeyPairID")
    capabilities: int = u16("Capabilities")
    usage_capabilities: int = u16("KeyUsageCapabilities")
    current_usage: int = u16("CurrentKeyUsage")
    asym_capabilities: int = u32("AsymAlgoCapabilities")
    current_asym: int = u32("CurrentAsymAlgo")
    public_key_info_length: None = length_of("public_key_info", 2)
    slots: int = u8("AssocCertSlotMask")
    public_key_info: bytes = blob("public_key_info_length", "PublicKeyInfo (AlgorithmIdentifier in DER)")
    pqc_capabilities_length: None = length_of("pqc_capabilities", 1, since=Version.V1_4)
    pqc_capabilities: bytes = blob(
        "pqc_capabilities_length", "PqcAsymAlgoCapabilities", since=Version.V1_4, default=b""
    )
    current_pqc_length: None = length_of("current_pqc", 1, since=Version.V1_4)
    current_pqc: bytes = blob("current_pqc_length", "CurrentPqcAsymAlgo", since=Version.V1_4, default=b"")
    beyond: bytes = blob(
        REST, "Bytes beyond the fields, ignored: the DMTF reference sends six", since=Version.V1_4, default=b""
    )


@message(0xFD, "SET_KEY_PAIR_INFO")
class SetKeyPairInfo(Request["SetKeyPairInfoAck"]):
    """Change, erase or generate a key pair; what follows the id is absent to erase."""

    operation: int = u8("0 change, 1 erase, 2 generate")
    _param2: None = reserved(1)
    key_pair_id: int = u8("KeyPairID")
    _reserved: None = reserved(1, when="operation != 1")
    usage: int = u16("DesiredKeyUsage; 0 leaves it", when="operation != 1", default=0)
    asym: int = u32("DesiredAsymAlgo; 0 leaves it", when="operation != 1", default=0)
    slots: int = u8("DesiredAssocCertSlotMask", when="operation != 1", default=0)
    pqc_length: None = length_of("pqc", 1, when="operation != 1", since=Version.V1_4)
    pqc: bytes = blob("pqc_length", "DesiredPqcAsymAlgo", when="operation != 1", since=Version.V1_4, default=b"")


@message(0x7D, "SET_KEY_PAIR_INFO_ACK")
class SetKeyPairInfoAck(Response):
    """Answer SET_KEY_PAIR_INFO."""

    _params: None = reserved(2)
