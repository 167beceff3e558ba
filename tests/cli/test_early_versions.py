"""What early versions leave open, the life of keys, and algorithms that are not provided: on the command line, on both sides."""

import pytest
from typer.testing import CliRunner

from cli.served import connect, device, run
from teeio.cli.algorithm_options import Order
from teeio.cli.app import app
from teeio.cli.choices import Choices
from teeio.errors import Misuse
from teeio.spdm.byte_order import ByteOrder
from teeio.spdm.record import MAX_RECORDS
from teeio.spdm.state import Settings

runner = CliRunner()
EARLY = Choices(
    versions="1.1",
    secured_versions="1.1",
    signature_order=Order.LITTLE,
    nonce_order=Order.BIG,
    asym="ECDSA_P256",
    records_per_key=100,
)
VERSION = ("--ver", "1.1", "--secured-versions", "1.1,1.0")
ORDERS = ("--signature-order", "little", "--nonce-order", "big")


def test_choices_become_settings() -> None:
    made = EARLY.applied(Settings())
    assert (made.signature_order, made.nonce_order) == (ByteOrder.LITTLE, ByteOrder.BIG)
    assert (made.secured_versions, made.records_per_key) == ((0x1100,), 100)
    plain = Choices().applied(Settings())
    assert (plain.signature_order, plain.nonce_order) == (ByteOrder.BIG, ByteOrder.LITTLE)
    assert plain.records_per_key == MAX_RECORDS
    assert [order.value for order in Order] == [order.value for order in ByteOrder]


def test_sides_that_agree_talk_and_update_their_keys_in_time() -> None:
    operations = ",".join(["session", *["heartbeat"] * 30, "end"])
    with device(choices=EARLY) as peer:
        found = connect(
            peer, *VERSION, *ORDERS, "--records-per-key", "10", "--operations", f"digests,certificate,{operations}"
        )
    assert found["version"] == "1.1"
    assert len(found["operations"]) >= 34


@pytest.mark.parametrize(
    ("orders", "operations", "told"),
    [
        ((), "digests,certificate,challenge", "signature does not verify"),
        (
            ("--signature-order", "little"),
            "digests,certificate,session,heartbeat,heartbeat",
            "AEAD tag does not verify",
        ),
    ],
)
def test_sides_that_do_not_agree_are_told_apart(orders: tuple[str, ...], operations: str, told: str) -> None:
    with device(choices=EARLY) as peer:
        result = run(peer, *VERSION, *orders, "--operations", operations)
    assert result.exit_code == 1
    assert told in result.stderr


def test_either_takes_a_little_endian_signer() -> None:
    with device(choices=EARLY) as peer:
        found = connect(
            peer,
            *VERSION,
            "--signature-order",
            "either",
            "--nonce-order",
            "big",
            "--operations",
            "digests,certificate,challenge",
        )
    assert found["challenge"] == "signature verified"


def test_without_key_update_the_limit_ends_the_session() -> None:
    operations = ",".join(["digests", "certificate", "session", *["heartbeat"] * 10])
    with device() as peer:
        result = run(peer, "--capabilities", "-KEY_UPD", "--records-per-key", "8", "--operations", operations)
    assert result.exit_code == 2
    assert "KEY_UPD is not negotiated: the session has been ended" in result.stderr


@pytest.mark.parametrize("command", [["device"], ["connect", "127.0.0.1:1"]], ids=["device", "connect"])
@pytest.mark.parametrize(
    ("option", "name", "reason"),
    [
        ("--asym", "SM2_P256", "no well-kept library signs with SM2"),
        ("--asym", "SM2", "no well-kept library signs with SM2"),
        ("--pqc-asym", "SLH_DSA_SHA2_128S", "no well-kept library offers SLH-DSA"),
        ("--hash", "SM3_256", "it serves SM2 identities"),
        ("--meas-hash", "SM3_256", "it serves SM2 identities"),
        ("--dhe", "SM2_P256", "no well-kept library has the SM2 key exchange"),
        ("--kem", "ML_KEM_512", "the well-kept library has ML-KEM-768 and ML-KEM-1024 only"),
        ("--aead", "SM4_GCM", "it serves SM2 identities"),
    ],
)
def test_an_algorithm_that_is_not_provided_is_refused_with_the_reason(
    command: list[str], option: str, name: str, reason: str
) -> None:
    result = runner.invoke(app, [*command, option, name])
    assert result.exit_code == 2
    assert f"{option} {name} is defined, but not implemented here: {reason}" in result.stderr
    assert "implemented are" in result.stderr


def test_identities_of_what_is_not_provided_cannot_be_made() -> None:
    result = runner.invoke(app, ["identity", "make", "x", "--asym", "SM2"])
    assert (result.exit_code, "no well-kept library" in result.stderr) == (2, True)


def test_a_limit_without_room_for_an_update_is_refused() -> None:
    with pytest.raises(Misuse, match="leave no room"):
        Choices(records_per_key=3).applied(Settings())
    assert runner.invoke(app, ["device", "--records-per-key", "3"]).exit_code == 2
