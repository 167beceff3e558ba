"""Our two roles against the DMTF reference emulator, where it is installed.

TEEIO_SPDM_EMU names the bin folder of a built spdm-emu (with its sample keys). Success means that both sides complete and that
the emulator's standard error is empty: its exit code alone says too little.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from interop.reference_emulator import INSTALLED, WHY_NOT, private_copy, reference_requester, reference_responder

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not INSTALLED, reason=WHY_NOT)]

P384 = "--hash SHA_384 --asym ECDSA_P384 --dhe SECP_384_R1 --aead AES_256_GCM"
P256 = "--hash SHA_256 --asym ECDSA_P256 --dhe SECP_256_R1 --aead AES_128_GCM"
NO_MUTUAL = "--mut_auth NO --basic_mut_auth NO"
FLOW = "--exe_conn DIGEST,CERT,CHAL,MEAS --exe_session KEY_EX,MEAS,HEARTBEAT,KEY_UPDATE"


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    return private_copy(tmp_path)


@contextmanager
def _teeio_device(transport: str, *options: str) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    command = [sys.executable, "-m", "teeio", "device", "--transport", transport, "--port", "0", "--once", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", line)
        assert found, line
        yield int(found[1]), process
        assert process.wait(20) == 0
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("transport", "options"),
    [
        (
            "PCI_DOE",
            f"--ver 1.2 {P384} {NO_MUTUAL} {FLOW},APP",
        ),
        (
            "PCI_DOE",
            f"--ver 1.3 {P256} {NO_MUTUAL} --meas_op ALL {FLOW},APP",
        ),
        (
            "MCTP",
            f"--ver 1.2 {P384} {NO_MUTUAL} --meas_op ALL {FLOW}",
        ),
        (
            "MCTP",
            f"--ver 1.3 {P256} {NO_MUTUAL} --meas_op ALL {FLOW}",
        ),
    ],
    ids=["doe-1.2-p384-app", "doe-1.3-p256-app", "mctp-1.2-p384", "mctp-1.3-p256"],
)
def test_the_reference_requester_completes_against_our_device(bin_folder: Path, transport: str, options: str) -> None:
    with _teeio_device(transport.lower()) as (port, _):
        reference_requester(bin_folder, port, f"--trans {transport} {options}")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("suite", [P384, P256], ids=["p384", "p256"])
@pytest.mark.parametrize("transport", ["PCI_DOE", "MCTP"])
def test_our_requester_completes_against_thereference_responder(
    bin_folder: Path, transport: str, suite: str, version: str
) -> None:
    with reference_responder(bin_folder, f"--trans {transport} --ver {version} {suite} {NO_MUTUAL}") as port:
        folder = "ecp384" if suite == P384 else "ecp256"
        done = subprocess.run(
            [sys.executable, "-m", "teeio", "connect", f"127.0.0.1:{port}", "--transport", transport.lower(), "--json",
             "--anchor", str(bin_folder / folder / "ca.cert.der")],
            capture_output=True,
            text=True,
            timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"] == version
    assert len(found["measurements"]) == len(found["measurements_in_session"]) == 8
    assert found["certificates"]["trust"] == "validated to a given anchor"
    if transport == "PCI_DOE":
        assert found["tdisp"]["states"] == ["CONFIG_UNLOCKED", "CONFIG_LOCKED", "RUN", "CONFIG_UNLOCKED"]
        assert found["ide_km"]["keys"] == 6


def test_a_device_and_a_requester_of_ours_meet_too(tmp_path: Path) -> None:
    keys, pcap = tmp_path / "keys.txt", tmp_path / "run.pcap"
    with _teeio_device("pci_doe", "--root", str(tmp_path / "root.pem")) as (port, _):
        done = subprocess.run(
            [sys.executable, "-m", "teeio", "connect", f"127.0.0.1:{port}", "--keylog", str(keys), "--pcap", str(pcap)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
    decoded = subprocess.run(
        [sys.executable, "-m", "teeio", "decode", str(pcap), "--keys", str(keys), "--brief"],
        capture_output=True,
        text=True,
    )
    assert decoded.returncode == 0, decoded.stderr
    assert "0 records not opened, 0 messages not decoded" in decoded.stdout
