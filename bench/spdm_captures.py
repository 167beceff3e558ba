"""Messages decoded, decrypted and verified a second, beside the reference dissector's, which verifies nothing.

TEEIO_SPDM_DUMP names the reference dissector's program. Both are given the same file and the same secrets.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from figures import Figures, cpu
from spdm_flow import children_cpu

from capture_files import Recorder
from teeio.capture.dissect import Dissection, dissect
from teeio.capture.findings import Verdict
from teeio.capture.keylog import KeyLog, parse_key_log
from teeio.capture.pcap import LinkType, pcap_file
from teeio.capture.pcapng import read_capture
from teeio.crypto.algorithms import BaseAsym, BaseHash
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import SigningKey, verify
from teeio.spdm import flows

DUMP = os.environ.get("TEEIO_SPDM_DUMP", "")
FILE = "FILE"
"""Stands for the capture in a command line."""
ROUNDS = 2500
RUNS = 5
SECRETS = ("dhe_secret", "kem_secret", "psk")
"""Secrets that sessions begin with; the reference dissector has an option of the same name for each."""


def long_capture(folder: Path) -> tuple[Path, Path]:
    """Record one session of some ten thousand messages on PCI DOE; every fiftieth round signs and updates keys."""
    pair = Recorder(LinkType.PCI_DOE)
    session = pair.open_session()
    for number in range(ROUNDS):
        pair.run(flows.heartbeat(session))
        pair.run(flows.get_measurements(pair.requester, session=session.session_id, signed=number % 50 == 0))
        if number % 50 == 0:
            pair.run(flows.key_update(pair.requester, session))
    pair.run(flows.end_session(pair.requester, session))
    data, text = pair.files()
    pcap, keys = folder / "long.pcap", folder / "long.keys"
    pcap.write_bytes(data)
    keys.write_text(text)
    return pcap, keys


def capture_figures(figures: Figures, seconds: float, pcap: Path | None, keys: Path | None) -> None:
    """Measure a capture, or a long recording of our own engines."""
    with tempfile.TemporaryDirectory() as folder:
        if pcap is None:
            pcap, keys = long_capture(Path(folder))
        text = keys.read_text() if keys is not None else None
        log = parse_key_log(text) if text is not None else None
        capture = read_capture(pcap.read_bytes())
        found = dissect(capture, log)
        messages = len(found.messages)
        figures.measure("messages in the capture", messages, f"with {sum(1 for _ in found.findings())} verified values")
        spent = cpu(lambda: dissect(capture, log), seconds) / messages
        checks = signature_checks(found, seconds) / messages
        rate = figures.measure("messages decoded, decrypted and verified", 1 / spent, "a second of CPU")
        bare = figures.measure("messages, signature checks taken off", 1 / (spent - checks), "a second of CPU")
        if not Path(DUMP).is_file():
            figures.note("the reference dissector: TEEIO_SPDM_DUMP does not name it")
            return
        theirs = process_cpu([DUMP, "-r", FILE, "-q", *secrets(log)], seconds, pcap) / messages
        figures.measure("messages of the reference dissector", 1 / theirs, "a second of CPU")
        figures.ratio("messages a second, to the reference dissector", bare * theirs, "at least 1")
        figures.ratio("the same with signatures verified", rate * theirs)
        if keys is not None:
            program_figures(figures, seconds, (pcap, keys), log, messages)


def program_figures(
    figures: Figures, seconds: float, files: tuple[Path, Path], log: KeyLog | None, messages: int
) -> None:
    """Measure both programs with their output, less what they need for a capture without frames."""
    pcap, keys = files
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.pcap"
        empty.write_bytes(pcap_file(LinkType.PCI_DOE, []))
        for title, ours, theirs in (("one line a message", ["--brief"], []), ("every field", [], ["-a", "-d"])):
            decode = [sys.executable, "-m", "teeio", "decode", FILE, "--keys", str(keys), *ours]
            dump = [DUMP, "-r", FILE, *theirs, *secrets(log)]
            start = process_cpu(decode, seconds, empty)
            mine = process_cpu(decode, seconds, pcap) - start
            its = process_cpu(dump, seconds, pcap) - process_cpu(dump, seconds, empty)
            figures.measure(f"teeio decode, {title}", messages / mine, "messages a second of CPU, less its start")
            figures.measure("  its start", start * 1e3, "ms of CPU")
            figures.ratio(f"teeio decode less its start, {title}, to the reference dissector", its / mine)


def signature_checks(found: Dissection, seconds: float) -> float:
    """Give the CPU seconds that the signature checks of a capture with P-384 take."""
    count = sum("signature" in finding.check and finding.verdict is Verdict.OK for _, finding in found.findings())
    key = SigningKey.generate(BaseAsym.ECDSA_P384, SeededEntropy(b"check"))
    public, signature = key.public, key.sign(b"transcript", BaseHash.SHA_384)
    once = cpu(lambda: verify(public, key.algorithm, b"transcript", signature, BaseHash.SHA_384), seconds / 4)
    return count * once


def secrets(log: KeyLog | None) -> list[str]:
    """Give a key log's secrets as options of the reference dissector, which takes them in the order of the sessions."""
    entries = log.sessions if log is not None else ()
    return [
        word
        for entry in entries
        for label in SECRETS
        if label in entry.values
        for word in (f"--{label}", entry.values[label].hex())
    ]


def process_cpu(command: Sequence[str], seconds: float, file: Path) -> float:
    """Give the CPU seconds of one run of a program on `file`; the mean of a few."""
    runs = RUNS if seconds >= 1 else 1
    before = children_cpu()
    for _ in range(runs):
        words = [str(file) if word == FILE else word for word in command]
        subprocess.run(words, stdout=subprocess.DEVNULL, timeout=60, check=True)
    return (children_cpu() - before) / runs
