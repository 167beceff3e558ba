"""Attacks by whoever sits on the link, or in a switch: entries 40 and 41 of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from teeio.errors import Misuse
from teeio.pcie.capabilities.aer import AerCapability
from teeio.pcie.ide_key import MAC_SIZE, IdeCheckFailed, KeySlot
from teeio.pcie.link import Way
from teeio.pcie.link_mode import LinkMode
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.mutants import NO_COUNTER, NO_MAC
from teeio.scenarios.scenario import Mutant, Outcome, Removed, Scenario
from teeio.scenarios.stage import SECRET, STREAM_ID, Stage
from teeio.tdisp.messages import InterfaceState

Act: TypeAlias = Callable[[bytes], "bytes | list[bytes] | None"]


class Once:
    """Somebody on the link who does something to one IDE TLP with a payload, on its way up, and lets all else pass."""

    def __init__(self, mode: LinkMode, act: Act) -> None:
        self._mode = mode
        self._act = act
        self.done = False

    def __call__(self, frame: bytes, way: Way) -> bytes | list[bytes] | None:
        """Take a frame."""
        if self.done or way is not Way.UP or len(frame) < _WITH_PAYLOAD or not self._mode.ide_fields(frame):
            return frame
        self.done = True
        return self._act(frame)


_WITH_PAYLOAD = 128
"""Bytes from which on an IDE TLP has a payload worth an attack."""


def _flip(frame: bytes) -> bytes:
    at = len(frame) - MAC_SIZE - 1
    return frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]


def _bit_flip(platform: Platform, journal: Journal) -> Outcome:
    """Flip one bit of what the device writes into private memory."""
    outcome = Outcome("flipped one bit of the payload of an IDE TLP on its way to the TVM's memory")
    _strike(Stage(platform, journal), outcome, "flip a bit of an IDE TLP", _flip)
    return outcome


def _lost_tlp(platform: Platform, journal: Journal) -> Outcome:
    """Lose one TLP."""
    outcome = Outcome("took one IDE TLP off the link")
    _strike(Stage(platform, journal), outcome, "take an IDE TLP off the link", lambda _: None)
    return outcome


def _replayed_tlp(platform: Platform, journal: Journal) -> Outcome:
    """Let one TLP arrive twice."""
    outcome = Outcome("let one IDE TLP arrive twice")
    _strike(Stage(platform, journal), outcome, "let an IDE TLP arrive twice", lambda frame: [frame, frame])
    return outcome


def _strike(stage: Stage, outcome: Outcome, title: str, act: Act) -> None:
    work, tamper = stage.work, Once(stage.link.mode, act)
    work.result.write(0, bytes(len(SECRET)))
    with stage.attack("link", title), stage.on_the_link(tamper):
        said = stage.refused(work.copy)
    outcome.see("the attack took place", tamper.done)
    held = work.result.read(0, len(SECRET))
    wrong = sum(got not in (0, true) for got, true in zip(held, SECRET, strict=True))
    outcome.see(
        f"of the {len(held)} bytes for the result {len(held) - held.count(0)} were written, {wrong} of them wrongly",
        not wrong,
    )
    _judge(stage, outcome, said)


def _judge(stage: Stage, outcome: Outcome, said: str) -> None:
    outcome.see(f"the TVM's job: {said or 'done'}", bool(said))
    root_port = stage.platform.root_complex.fabric.ports[0]
    secure = root_port.ide.is_secure(STREAM_ID)
    outcome.see(f"the stream is {'Secure' if secure else 'Insecure'} at the root port", not secure)
    failed = root_port.config.need(AerCapability).get(AerCapability.UNCORRECTABLE_STATUS, "ide_check_failed")
    outcome.see(f"its IDE Check Failed error bit is {failed}", bool(failed))
    outcome.see(f"the TDI is in {stage.state().name}", stage.state() is InterfaceState.ERROR)
    outcome.tdi_states = stage.tdi_states()


def _hostile_switch(platform: Platform, journal: Journal) -> Outcome:
    """Look into all that goes through the switch, and send one TLP up twice."""
    stage = Stage(platform, journal)
    switch = platform.switch
    if switch is None:
        raise Misuse("this is played on a platform with a switch")
    outcome = Outcome("read all that goes through the switch, and sent one IDE TLP up twice")
    upstream, seen, repeated = switch.upstream, bytearray(), Once(switch.upstream.mode, lambda frame: [frame, frame])
    honest = upstream.emit

    def repeating(frame: bytes) -> None:
        arriving = repeated(frame, Way.UP) or []
        for one in [arriving] if isinstance(arriving, bytes) else arriving:
            listening(one)

    def listening(frame: bytes) -> None:
        seen.extend(frame)
        honest(frame)

    with stage.attack("switch", "listen"), stage.instead(upstream, "emit", listening):
        work = stage.work
    unread = len(seen) > len(SECRET) and SECRET[:16] not in seen
    outcome.see(f"of {len(seen)} bytes that went up {'none' if unread else 'some'} are the TVM's secret", unread)
    with stage.attack("switch", "send an IDE TLP up twice"), stage.instead(upstream, "emit", repeating):
        said = stage.refused(work.copy)
    outcome.see("the attack took place", repeated.done)
    _judge(stage, outcome, said)
    return outcome


def _in_the_clear(self: KeySlot, plaintext: bytes, associated: bytes) -> bytes:
    """Give the plaintext with the MAC."""
    return plaintext + _seal(self, plaintext, associated)[len(plaintext) :]


def _opened_in_the_clear(self: KeySlot, plaintext: bytes, mac: bytes, associated: bytes) -> bytes:
    """Check the MAC of a plaintext."""
    if _seal(self, plaintext, associated)[len(plaintext) :] != mac:
        raise IdeCheckFailed("the MAC does not verify", "PCIe Base 6.33.5")
    return plaintext


_seal = KeySlot.seal
_NO_ENCRYPTION = Mutant(
    "encryption of the payload",
    (Removed(KeySlot, "seal", _in_the_clear), Removed(KeySlot, "open", _opened_in_the_clear)),
)


_RULE = "PCIe Base 6.33.5: MAC over header and data; a failed check makes the stream Insecure and its TDIs go to ERROR"
_COUNTED = "PCIe Base 6.33.5: each sub-stream's counter is its IV, so that a lost or repeated TLP fails the next check"

LINK = (
    Scenario(
        40,
        "bit-flip",
        "somebody on the link flips a bit of an IDE TLP",
        "link",
        "run",
        _RULE,
        _bit_flip,
        (NO_MAC,),
    ),
    Scenario(
        41,
        "lost-tlp",
        "somebody on the link takes an IDE TLP away",
        "link",
        "run",
        _COUNTED,
        _lost_tlp,
        (NO_COUNTER,),
    ),
    Scenario(
        41,
        "replayed-tlp",
        "somebody on the link lets an IDE TLP arrive twice",
        "link",
        "run",
        _COUNTED,
        _replayed_tlp,
        (NO_COUNTER,),
    ),
    Scenario(
        41,
        "hostile-switch",
        "a switch on the way reads what goes through it and repeats a TLP",
        "switch",
        "run",
        "PCIe Base 6.33.4: Selective IDE flows through a switch, which has no key; " + _COUNTED.partition(": ")[2],
        _hostile_switch,
        (NO_COUNTER, _NO_ENCRYPTION),
        options={"switch": True},
    ),
)
