"""A cell as the emulator's command line says it."""

from __future__ import annotations

from teeio.crypto.algorithms import BaseAsym, Dhe, Kem, PqcAsym
from teeio.crypto.keys import Asym
from teeio.interop.cells import AS_USUAL, MUTUAL_NAMES, Cell, Role, Step
from teeio.spdm.constants import Capability, SummaryType, Version

USUAL = {
    Role.REQUESTER: Capability.CERT
    | Capability.CHAL
    | Capability.ENCRYPT
    | Capability.MAC
    | Capability.MUT_AUTH
    | Capability.KEY_EX
    | Capability.PSK
    | Capability.ENCAP
    | Capability.HBEAT
    | Capability.KEY_UPD
    | Capability.HANDSHAKE_IN_THE_CLEAR
    | Capability.CHUNK
    | Capability.MULTI_KEY_NEG
    | Capability.EP_INFO_SIG
    | Capability.LARGE_RESP,
    Role.RESPONDER: Capability.CACHE
    | Capability.CERT
    | Capability.CHAL
    | Capability.MEAS_SIG
    | Capability.MEL
    | Capability.MEAS_FRESH
    | Capability.ENCRYPT
    | Capability.MAC
    | Capability.MUT_AUTH
    | Capability.KEY_EX
    | Capability.PSK_WITH_CONTEXT
    | Capability.ENCAP
    | Capability.HBEAT
    | Capability.KEY_UPD
    | Capability.HANDSHAKE_IN_THE_CLEAR
    | Capability.CHUNK
    | Capability.SET_CERT
    | Capability.CSR
    | Capability.MULTI_KEY_NEG
    | Capability.GET_KEY_PAIR_INFO
    | Capability.SET_KEY_PAIR_INFO
    | Capability.EP_INFO_SIG
    | Capability.LARGE_RESP,
}
"""The flags that the emulator offers when it is not told."""

_FLAG_NAMES = {Capability.HANDSHAKE_IN_THE_CLEAR: "HANDSHAKE_IN_CLEAR"}
_ASYM_NAMES = {BaseAsym.ED25519: "EDDSA_25519", BaseAsym.ED448: "EDDSA_448"}
_GROUP_NAMES = {Dhe.SECP256R1: "SECP_256_R1", Dhe.SECP384R1: "SECP_384_R1", Dhe.SECP521R1: "SECP_521_R1"}
_SUMMARY_NAMES = {SummaryType.NONE: "NO", SummaryType.TCB: "TCB", SummaryType.ALL: "ALL"}


def options(cell: Cell, theirs: Role) -> list[str]:
    """Give the options of the emulator's side for a cell."""
    given = {"--trans": cell.transport.name, "--hash": str(cell.base_hash.name), "--meas_hash": str(cell.hashes.name)}
    if cell.any_version != theirs.value:
        given["--ver"] = cell.version.text
    given |= _signatures(cell.asym)
    given |= _session(cell) if cell.version > Version.V1_0 else {}
    given |= {"--mut_auth": MUTUAL_NAMES[cell.mode], "--basic_mut_auth": "BASIC" if cell.basic else "NO"}
    if cell.req_asym is not None:
        given |= _signatures(cell.req_asym, "req_")
    if cell.slot_count is not None:
        given["--slot_count"] = str(cell.slot_count)
    given |= _flags(cell, theirs)
    if theirs is Role.REQUESTER:
        given |= _flow(cell)
    return [word for option in given.items() for word in option]


def _signatures(asym: Asym, side: str = "") -> dict[str, str]:
    if isinstance(asym, PqcAsym):
        return {f"--{side}asym": "NONE", f"--{side}pqc_asym": str(asym.name)}
    return {f"--{side}asym": _ASYM_NAMES.get(asym, str(asym.name))}


def _session(cell: Cell) -> dict[str, str]:
    given = {"--aead": str(cell.aead.name)}
    if isinstance(cell.group, Kem):
        given |= {"--dhe": "NONE", "--kem": str(cell.group.name)}
    else:
        given["--dhe"] = _GROUP_NAMES.get(cell.group, str(cell.group.name))
    if cell.secured_version is not None:
        given["--sec_ver"] = f"{cell.secured_version >> 12}.{cell.secured_version >> 8 & 0xF}"
    return given


def _flags(cell: Cell, theirs: Role) -> dict[str, str]:
    change = cell.requester if theirs is Role.REQUESTER else cell.responder
    if change == AS_USUAL and cell.clear:
        return {}
    flags = change.of(USUAL[theirs])
    if not cell.clear:
        flags &= ~Capability.HANDSHAKE_IN_THE_CLEAR
    return {"--cap": ",".join(_FLAG_NAMES.get(flag, str(flag.name)) for flag in Capability if flag in flags)}


def _flow(cell: Cell) -> dict[str, str]:
    given = {
        "--exe_conn": ",".join(step.value for step in cell.connection),
        "--meas_op": "ALL",
        "--meas_att": "RAW" if cell.raw else "HASH",
        "--meas_sum": _SUMMARY_NAMES[cell.summary],
        "--key_upd": cell.key_updates.value,
    }
    if cell.public_keys:
        given["--slot_id"] = f"0x{cell.slot:X}"
    # The option cannot be empty: NO_END alone sets up no session.
    given["--exe_session"] = ",".join(step.value for step in cell.session or (Step.NO_END,))
    return given
