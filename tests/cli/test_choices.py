"""Options become settings, and what is not known is refused with a list of what is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeio.cli.choices import (
    Choices,
    check_requester_flags,
    edited_capabilities,
    named_measurement_hashes,
    parse_algorithms,
    parse_psks,
    parse_versions,
)
from teeio.cli.operations import parse_measurements, parse_operations
from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe, Kem, MeasurementHash, PqcAsym
from teeio.errors import Misuse
from teeio.spdm.constants import Capability, Version
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Settings
from teeio.transport.kinds import Transport


def test_no_choice_changes_nothing() -> None:
    for capabilities in (REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES):
        settings = Settings(capabilities=capabilities)
        assert Choices().applied(settings) == settings
        assert Transport.TCP.limited(settings) == settings


def test_every_choice_in_its_order() -> None:
    made = Choices(
        versions="1.2,1.4",
        asym="rsapss-3072,ECDSA_P521",
        base_hash="SHA3_384, sha_256",
        dhe="FFDHE_3072",
        aead="CHACHA20_POLY1305,AES_128_GCM",
        measurement_hash="SHA_512",
        capabilities="+PSK,-HBEAT",
        clear_handshake=True,
        data_transfer_size=1024,
    ).applied(Settings())
    assert made.versions == (Version.V1_4, Version.V1_2)
    assert made.base_asym == (BaseAsym.RSAPSS_3072, BaseAsym.ECDSA_P521)
    assert made.base_hash == (BaseHash.SHA3_384, BaseHash.SHA_256)
    assert made.dhe == (Dhe.FFDHE_3072,)
    assert made.aead == (Aead.CHACHA20_POLY1305, Aead.AES_128_GCM)
    assert made.measurement_hash == (MeasurementHash.SHA_512,)
    assert made.capabilities == (
        REQUESTER_CAPABILITIES & ~Capability.HBEAT | Capability.PSK | Capability.HANDSHAKE_IN_THE_CLEAR
    )
    assert made.data_transfer_size == 1024


def test_post_quantum_alone_means_alone_and_1_4() -> None:
    made = Choices(pqc_asym="ML_DSA_65", kem="ML_KEM_768").applied(Settings())
    assert (made.base_asym, made.pqc_asym) == ((), (PqcAsym.ML_DSA_65,))
    assert (made.dhe, made.kem) == ((), (Kem.ML_KEM_768,))
    assert made.versions == (Version.V1_4,)
    both = Choices(versions="1.4", asym="ED25519", pqc_asym="ML_DSA_65").applied(Settings())
    assert (both.base_asym, both.pqc_asym) == ((BaseAsym.ED25519,), (PqcAsym.ML_DSA_65,))


@pytest.mark.parametrize(
    ("choices", "message", "remedy"),
    [
        (Choices(asym="ECDSA_P385"), "'ECDSA_P385' is not known", "ECDSA_P384"),
        (Choices(asym="SM2"), "SM2 is defined, but not implemented", "ED25519"),
        (Choices(aead="SM4_GCM"), "not implemented", "AES_256_GCM"),
        (Choices(base_hash="MD5"), "--hash 'MD5'", "SHA3_512"),
        (Choices(dhe=""), "--dhe ''", "SECP384R1"),
        (Choices(kem="ML_KEM_768", versions="1.3"), "--kem needs SPDM 1.4", "1.4"),
        (Choices(versions="1.9"), "not a known SPDM version", "1.0"),
        (Choices(capabilities="+FLY"), "'FLY' is not a capability", "KEY_UPD"),
        (Choices(capabilities="+PSK,HBEAT"), "mixes names", "replace"),
    ],
)
def test_what_is_not_known_is_told(choices: Choices, message: str, remedy: str) -> None:
    with pytest.raises(Misuse, match=message) as refused:
        choices.applied(Settings())
    assert remedy in refused.value.remedy


def test_capabilities_by_name_replace_all() -> None:
    assert edited_capabilities("CERT,chal", REQUESTER_CAPABILITIES) == Capability.CERT | Capability.CHAL


def test_contradicting_flags_are_refused() -> None:
    check_requester_flags(REQUESTER_CAPABILITIES)
    with pytest.raises(Misuse, match="contradict"):
        check_requester_flags(REQUESTER_CAPABILITIES & ~Capability.KEY_EX)


def test_pre_shared_keys() -> None:
    assert parse_psks(["TestPskHint\\0=5465", "a=b\\xff=00"]) == {b"TestPskHint\0": b"Te", b"a=b\xff": b"\0"}


@pytest.mark.parametrize("text", ["hint", "hint=", "hint=xyz", "\u20ac=00"])
def test_a_wrong_pre_shared_key_is_not_shown(text: str) -> None:
    with pytest.raises(Misuse) as refused:
        parse_psks([text])
    assert text not in str(refused.value)


def test_a_pre_shared_key_in_a_file(tmp_path: Path) -> None:
    key = tmp_path / "key=1"
    key.write_bytes(b"\1\2=\n")
    assert parse_psks([f"me=@{key}"]) == {b"me": b"\1\2=\n"}
    with pytest.raises(Misuse, match="cannot be read"):
        parse_psks([f"me=@{tmp_path}"])


def test_how_sessions_are_protected() -> None:
    made = Choices(mac_only=True, secured_versions="1.1,1.0", max_message_size=0x9000).applied(Settings())
    assert made.capabilities == REQUESTER_CAPABILITIES & ~Capability.ENCRYPT
    assert made.secured_versions == (0x1000, 0x1100)
    assert made.max_message_size == 0x9000


def test_what_the_requester_signs_with() -> None:
    made = Choices(req_asym="ED25519").applied(Settings())
    assert (made.req_base_asym, made.req_pqc_asym) == ((BaseAsym.ED25519,), ())
    made = Choices(req_pqc_asym="ML_DSA_44").applied(Settings())
    assert (made.req_base_asym, made.req_pqc_asym) == ((), (PqcAsym.ML_DSA_44,))
    assert made.versions == (Version.V1_4,)


def test_the_raw_transport_takes_sessions_out() -> None:
    limited = Transport.NONE.limited(Settings(capabilities=RESPONDER_CAPABILITIES))
    assert limited.capabilities == (
        Capability.CERT | Capability.CHAL | Capability.MEAS_SIG | Capability.MEAS_FRESH | Capability.CHUNK
    )


@pytest.mark.parametrize("transport", [Transport.MCTP, Transport.PCI_DOE, Transport.NONE])
def test_only_tcp_is_plain(transport: Transport) -> None:
    Transport.TCP.check_tcp_only(plain=True, role_inquiry=True)
    transport.check_tcp_only(plain=False, role_inquiry=False)
    with pytest.raises(Misuse, match="--role-inquiry does not go with"):
        transport.check_tcp_only(plain=False, role_inquiry=True)


def test_measurements() -> None:
    assert parse_measurements("all") == (0xFF,)
    assert parse_measurements("1,0xfd") == (1, 0xFD)
    for text in ("", "0", "255", "x", "1,,2", "-1"):
        with pytest.raises(Misuse):
            parse_measurements(text)


def test_measurement_hashes_that_a_requester_accepts() -> None:
    assert named_measurement_hashes(None) == ()
    assert named_measurement_hashes("SHA_256,RAW_ONLY") == (MeasurementHash.SHA_256, MeasurementHash.RAW_ONLY)


def test_algorithms_of_both_kinds() -> None:
    (traditional, later) = parse_algorithms("--asym", "RSASSA_2048,ML_DSA_44")
    assert (type(traditional), type(later)) == (BaseAsym, PqcAsym)


@given(st.text(max_size=20))
def test_any_text_gives_nothing_but_misuse(text: str) -> None:
    for read in (
        parse_versions,
        parse_operations,
        parse_measurements,
        named_measurement_hashes,
        lambda t: parse_psks([t]),
        lambda t: edited_capabilities(t, Capability(0)),
    ):
        try:
            read(text)
        except Misuse:
            continue
