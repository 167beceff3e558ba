"""The operations of `teeio connect --operations`, declared once: names, arguments, one line each, and what they need.

What they do is in `operations`, apart from here so that `--help` is quick.
"""

from __future__ import annotations

from dataclasses import dataclass

from teeio.spdm.constants import Capability

NOTHING = Capability(0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation: its argument ("" for none; in brackets where it can be left out) and what it means.

    `in_session`: it is only legal inside a session. `negotiated`: negotiation comes first. `needs` are capabilities of ours that it
    makes us offer. `also` is another name of it.
    """

    name: str
    argument: str
    meaning: str
    in_session: bool = False
    negotiated: bool = True
    needs: Capability = NOTHING
    also: str = ""

    @property
    def form(self) -> str:
        """How it is written: name and argument."""
        if not self.argument:
            return self.name
        return f"{self.name}[:{self.argument[1:]}" if self.argument[0] == "[" else f"{self.name}:{self.argument}"


_ENTRIES = (
    Entry("discovery", "", "list the DOE protocols (DOE only)", negotiated=False),
    Entry("version", "", "list the versions the responder offers", negotiated=False),
    Entry("negotiate", "[list]", "version, capabilities, algorithms; list all that there are", negotiated=False),
    Entry("digests", "", "which slots there are"),
    Entry("certificate", "[SLOT]", "read and validate a chain; in the large form where both sides can"),
    Entry("slot-size", "[SLOT]", "how many bytes a slot holds"),
    Entry("challenge", "[SLOT]", "prove the private key; a responder may ask for our proof"),
    Entry("measurements", "[WHICH]", "read measurements: all, each, count, or INDEX+INDEX; see --raw, --no-signature"),
    Entry("respond-if-ready", "", "measurements, waiting out ResponseNotReady"),
    Entry("mel", "", "read the measurement extension log"),
    Entry("endpoint-info", "", "read the device classes, signed where the responder signs"),
    Entry("session", "", "KEY_EXCHANGE and FINISH, with --identity if asked", also="key-exchange"),
    Entry("psk", "", "PSK_EXCHANGE and PSK_FINISH with --psk", also="psk-exchange"),
    Entry("quick-start", "", "GET_VERSION, then psk on what was negotiated before (CACHE)"),
    Entry("heartbeat", "", "keep the session alive", in_session=True),
    Entry("key-update", "[all|request]", "update and verify all keys, or the request key", in_session=True),
    Entry(
        "serve", "", "answer what the responder asks: new keys, events, ...", in_session=True,
        needs=Capability.ENCAP,
    ),
    Entry("supported-event-types", "", "which events the responder raises", in_session=True),
    Entry(
        "subscribe", "[all|none|TYPE+...]", "subscribe to events; they come by serve", in_session=True,
        needs=Capability.ENCAP,
    ),
    Entry(
        "send-event",
        "TYPE:HEX",
        "report an event of ours with its detail",
        in_session=True,
        needs=Capability.EVENT,
    ),
    Entry(
        "get-csr",
        "[FILE[:TAG][+info=FILE]]",
        "get a certificate request; after a reset by its tag; TAG new drops older ones; RequesterInfo from a DER file",
    ),
    Entry("set-certificate", "SLOT:FILE", "write a chain into a slot"),
    Entry("erase-certificate", "SLOT", "erase a slot"),
    Entry("key-pair-info", "[ID]", "what a key pair, or each of them, is and can"),
    Entry("set-key-pair-info", "ID:ACTION", "erase, generate, change; with +algorithm=, +slots=, +usage="),
    Entry("vendor-defined", "ID:VENDOR:HEX", "send a VENDOR_DEFINED_REQUEST: StandardID, vendor and payload in hex"),
    Entry("ide", "", "key an IDE stream and start it", in_session=True),
    Entry("tdisp", "", "take the interface to RUN and back", in_session=True),
    Entry("ide-stop", "", "erase the stream's keys", in_session=True),
    Entry("end", "[clear]", "END_SESSION of the session opened last; clear what was negotiated", in_session=True, also="end-session"),
)  # fmt: skip

ENTRIES: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""By name, in the order in which they make sense."""

NAMES: dict[str, Entry] = ENTRIES | {entry.also: entry for entry in _ENTRIES if entry.also}
"""By every name."""
