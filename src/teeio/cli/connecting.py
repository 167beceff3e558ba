"""What the options of `teeio connect` mean: the plan of a visit, and the requester that goes on it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from teeio.cli.choices import Choices, check_requester_flags, named_measurement_hashes, parse_device_classes, parse_psks
from teeio.cli.connect_options import ProofOptions, ProvisionOptions, ReachOptions, TdiOptions, WorkOptions
from teeio.cli.operations import Operation, needed, parse_measurements
from teeio.cli.visits.visit import Plan
from teeio.crypto.certificates import CertificateModel
from teeio.crypto.certificates.chain import load_anchor
from teeio.crypto.certificates.revocation import load_list
from teeio.crypto.entropy import Entropy
from teeio.crypto.keys import Asym
from teeio.crypto.public_key_files import load_public_keys
from teeio.errors import Misuse
from teeio.identity_files import read
from teeio.observe import Observer
from teeio.spdm.binding import Binding
from teeio.spdm.constants import PUBLIC_KEY_SLOT, Capability
from teeio.spdm.device_state import Identity
from teeio.spdm.events import Events
from teeio.spdm.requester import Requester
from teeio.spdm.state import MUTUAL_CAPABILITIES, Settings
from teeio.transport.kinds import Transport
from teeio.transport.platform_port import PlatformPortClient
from teeio.transport.tcp import TcpClient, await_inquiry


def make_plan(
    choices: Choices, work: WorkOptions, proof: ProofOptions, provision: ProvisionOptions, tdi: TdiOptions
) -> Plan:
    """Give the plan of a visit. Raises `Misuse`."""
    psks = parse_psks(proof.psk or [])
    if len(psks) > 1:
        raise Misuse(f"--psk: {len(psks)} keys for one responder", remedy="give one HINT=HEX")
    return Plan(
        slot=PUBLIC_KEY_SLOT if proof.responder_key else proof.slot,
        port_index=tdi.ide_port,
        stream_id=tdi.stream,
        function_id=_number(tdi.interface),
        anchors=anchors(proof.anchor or []),
        revocation_lists=_revocation_lists(proof),
        at_time=time.time(),
        psk=next(iter(psks.items()), None),
        measurements=parse_measurements(work.measurements),
        raw=work.raw,
        signed=not work.unsigned,
        measurement_hashes=named_measurement_hashes(choices.measurement_hash),
        session_policy=work.session_policy,
        key_pair=provision.key_pair,
        model=CertificateModel[provision.model.name] if provision.model else None,
    )


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise Misuse(f"--interface {text!r} is not a number", remedy="give it as 0xbeef or as 48879") from None


def _revocation_lists(proof: ProofOptions) -> list[bytes] | None:
    if not proof.crl:
        return None
    if not proof.anchor:
        raise Misuse("--crl without --anchor: a chain that reaches no anchor cannot be checked", remedy="give --anchor")
    return [load_list(file.read_bytes(), file.name) for file in proof.crl]


def anchors(files: Sequence[Path]) -> list[bytes]:
    """Read root certificates. Raises `DecodeError` naming the file."""
    return [load_anchor(file.read_bytes(), file.name) for file in files]


def make_requester(
    choices: Choices,
    proof: ProofOptions,
    provision: ProvisionOptions,
    operations: Sequence[Operation],
    *,
    binding: Binding,
    transport: Transport,
    entropy: Entropy,
    observer: Observer,
    peer: str,
) -> Requester:
    """Make the requester: what it offers follows from the options and from the operations. Raises `Misuse`."""
    if proof.public_key and proof.identity is None:
        raise Misuse("--public-key says how --identity is known, and there is none", remedy="give --identity DIR")
    extra = needed(operations) | (Capability.PSK if proof.psk else Capability(0))
    if proof.identity is not None:
        extra |= MUTUAL_CAPABILITIES & ~Capability.CERT | (
            Capability.PUB_KEY_ID if proof.public_key else Capability.CERT
        )
    if proof.device_class:
        extra |= Capability.ENCAP | Capability.EP_INFO_NO_SIG
    # Which measurement hashes are accepted is checked afterwards: a requester cannot choose among them.
    settings = transport.limited(replace(choices, measurement_hash=None).applied(Settings(), extra))
    settings = replace(settings, multi_key=provision.multi_key)
    check_requester_flags(settings.capabilities)
    algorithms: tuple[Asym, ...] = (*settings.req_base_asym, *settings.req_pqc_asym)
    identities = read(proof.identity, algorithms, (0,), role="requester") if proof.identity is not None else ()
    if proof.public_key:
        identities = tuple(Identity.of_public_key(identity.slots[0].key) for identity in identities)
    keys = [key for file in proof.responder_key or [] for key in load_public_keys(file.read_bytes(), file.name)]
    return Requester(
        binding,
        settings,
        entropy,
        observer,
        peer=peer,
        identities=identities,
        events=Events(),
        peer_keys=keys,
        device_classes=parse_device_classes(proof.device_class or []),
    )


def make_client(host: str, port: int, reach: ReachOptions) -> AbstractContextManager[PlatformPortClient | TcpClient]:
    """Make the connection, or await it. Raises `TransportError`."""
    connection = await_inquiry(host, port, reach.timeout) if reach.role_inquiry else None
    if reach.plain:
        return TcpClient(host, port, timeout=reach.timeout, connection=connection)
    return PlatformPortClient(host, port, reach.transport.type, timeout=reach.timeout, connection=connection)
