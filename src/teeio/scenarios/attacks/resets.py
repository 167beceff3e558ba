"""Attacks by resets, plugs and updates on an interface in RUN: entry 56 of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from teeio.accelerator_interface import REGISTER_BAR, AcceleratorRegisters
from teeio.device.device import Device
from teeio.device.identity import Firmware
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.pcie.port import Port
from teeio.pcie.seams import ResetKind
from teeio.platform import Platform, forked
from teeio.scenarios.journal import Journal
from teeio.scenarios.scenario import Mutant, Outcome, Scenario, nothing, without, without_rule
from teeio.scenarios.stage import STREAM_ID, Stage, Work
from teeio.tdisp.interface import Interface
from teeio.tdisp.messages import InterfaceState
from teeio.tdisp.states import Event

Strike: TypeAlias = tuple[str, Callable[[], None]]


def _surprise_reset(platform: Platform, journal: Journal) -> Outcome:
    """Reset and change the device under a TVM, and look whether anything but a whole new life revives it."""
    stage = Stage(platform, journal)
    outcome = Outcome("reset a device in RUN, took its link down, and hoped that the TVM goes on with what comes back")
    interface, guest = stage.running, stage.guest
    strikes: tuple[Strike, ...] = (
        ("function level reset of the VF", lambda: stage.vmm.vfio.reset(stage.vf)),
        ("function level reset of the PF", lambda: stage.vmm.vfio.reset(stage.pf)),
        ("link down and up again", lambda: _link_down_and_up(stage)),
    )
    _strike(stage, outcome, strikes, InterfaceState.ERROR)
    with stage.attack("VMM", "update the firmware of the running device"):
        firmware = replace(platform.configuration.manufacture.firmware, svn=0)
        taken = stage.device.update_firmware(firmware)
        outcome.see(f"the device {'takes' if taken else 'refuses'} it while the TDI is locked", not taken)
    interface.unlock(stage.now())
    outcome.see("unlocked, it takes it", stage.device.update_firmware(firmware))
    said = stage.refused(lambda: interface.bring_up(guest.verifier, TRUSTED_REGISTERS, stage.now()))
    outcome.see(f"the TVM: {said.splitlines()[0] if said else 'accepted it'}", "not accepted" in said)
    outcome.tdi_states = stage.tdi_states()
    return outcome


def _replugged_device(platform: Platform, journal: Journal) -> Outcome:
    """Reset all of the device, and pull it and plug it in again: then it has forgotten everything, the lock too."""
    stage = Stage(platform, journal)
    outcome = Outcome("reset all of a device in RUN, unplugged it, and hoped that the TVM goes on with what comes back")
    strikes: tuple[Strike, ...] = (
        ("conventional reset", lambda: _conventional_reset(stage)),
        ("unplugged and plugged in again", lambda: _replug(stage, stage.device)),
    )
    _strike(stage, outcome, strikes, InterfaceState.CONFIG_UNLOCKED)
    outcome.tdi_states = stage.tdi_states()
    return outcome


def _strike(stage: Stage, outcome: Outcome, strikes: tuple[Strike, ...], wanted: InterfaceState) -> None:
    """Strike, look whether the TVM goes on or revives the interface without evidence, and begin a whole new life."""
    interface, guest = stage.running, stage.guest
    for case, strike in strikes:
        work = Work(stage, guest, interface)
        with stage.attack("VMM", case):
            strike()
            outcome.see(f"{case}: the TDI is in {stage.state().name}", stage.state() is wanted)
        said = stage.refused(work.copy)
        outcome.see(f"{case}: the TVM's job: {said or 'done'}", bool(said))
        work.leave()
        said = stage.refused(lambda: interface.accept(stage.now()))
        outcome.see(f"{case}: accepted again without evidence: {said or 'yes'}", bool(said))
        with stage.journal.step("TVM", "unlock, and begin anew with all the evidence"):
            stage.begin_anew(interface, guest)
            outcome.see(f"{case}: after a whole new life the TDI is in RUN", stage.state() is InterfaceState.RUN)


def _link_down_and_up(stage: Stage) -> None:
    stage.link.fail()
    stage.link.restore()


def _conventional_reset(stage: Stage) -> None:
    """Reset the device, and write its BARs again."""
    stage.device.reset(ResetKind.CONVENTIONAL)
    stage.vmm.bus.restore(stage.pf)


def _replug(stage: Stage, device: Device) -> None:
    """Pull the device and plug this one in; one that was without power begins as after a reset."""
    stage.link.fail()
    device.reset(ResetKind.CONVENTIONAL)
    stage.platform.devices[0] = stage.device = device
    device.port.attach(stage.link.bottom)
    stage.link.restore()
    stage.vmm.bus.restore(stage.pf)


def _swapped_device(platform: Platform, journal: Journal) -> Outcome:
    """Pull the device under a TVM and plug another one in: of the same make, genuine, but not the one that was attested."""
    stage = Stage(platform, journal)
    work, interface, guest = stage.work, stage.running, stage.guest
    outcome = Outcome("plugged another genuine device of the same make in, in the place of one in RUN")
    made = replace(platform.configuration.another(1), address=platform.configuration.address)
    entropy, maker = forked(platform.entropy, "another device"), platform.manufacturer
    other = Device(made, entropy, stage.now(), manufacturer=maker)
    with stage.attack("VMM", "pull the device, and plug another one in"):
        _replug(stage, other)
    secure = platform.root_complex.fabric.ports[0].ide.is_secure(STREAM_ID)
    outcome.see(f"the stream is {'Secure' if secure else 'Insecure'} at the root port", not secure)
    said = stage.refused(work.copy)
    outcome.see(f"the TVM's job: {said or 'done'}", bool(said))
    doorbell = stage.vf.bars[REGISTER_BAR].address + AcceleratorRegisters.DOORBELL.offset
    read = platform.root_complex.vmm.mmio_read(doorbell, 4)
    outcome.see(f"the VMM reads {read.hex()} where the TVM rang the doorbell", not any(read))
    work.leave()
    said = stage.refused(lambda: interface.accept(stage.now()))
    outcome.see(f"accepted again without evidence: {said or 'yes'}", bool(said))
    said = stage.refused(lambda: stage.begin_anew(interface, guest))
    outcome.see(f"accepted with the other's evidence: {said or 'yes'}", "identity" in said)
    outcome.see(f"the other's TDI is in {stage.state().name}", stage.state() is InterfaceState.CONFIG_UNLOCKED)
    return outcome


_hears = Interface.happen


def _deaf(what: str, *events: Event) -> Mutant:
    """Make the mutant whose TDIs go on after these events."""

    def happen(self: Interface, event: Event) -> None:
        if event not in events:
            _hears(self, event)

    return without(f"the TDI's way out of RUN on {what}", Interface, "happen", happen)


def _any_firmware(self: Device, firmware: Firmware) -> bool:
    """Run other firmware whatever is locked."""
    self.runs.run(firmware)
    return True


_NEW_EVIDENCE = "PCIe Base 11.4.8, 11.4.9: out of RUN; only new evidence under a new lock leads back"

RESETS = (
    Scenario(
        56,
        "surprise-reset",
        "the VMM resets and changes a device in RUN, and takes its link down",
        "VMM",
        "run",
        _NEW_EVIDENCE,
        _surprise_reset,
        (
            _deaf("a function level reset, and the registers that it resets", Event.FLR, Event.CONFIG_CHANGED),
            _deaf("a lost stream or session", Event.STREAM_INSECURE, Event.SESSION_ENDED),
            without("NO_FW_UPDATE", Device, "update_firmware", _any_firmware),
        ),
    ),
    Scenario(
        56,
        "replugged-device",
        "the VMM resets all of a device in RUN, or pulls it and plugs it in again",
        "VMM",
        "run",
        _NEW_EVIDENCE,
        _replugged_device,
        (
            _deaf(
                "a conventional reset, and on all that it takes along: stream, session, registers",
                Event.CONVENTIONAL_RESET,
                Event.STREAM_INSECURE,
                Event.SESSION_ENDED,
                Event.CONFIG_CHANGED,
            ),
        ),
    ),
    Scenario(
        56,
        "swapped-device",
        "the VMM plugs another device in, in the place of one in RUN",
        "VMM",
        "run",
        "the TVM's policy on the identity of the device; Linux PCI/TSM: a device that comes back is attested as a new one",
        _swapped_device,
        (
            without("the ports' end of all streams when the link goes down", Port, "link_down", nothing),
            without_rule("identity", "reference-values"),
        ),
    ),
)
