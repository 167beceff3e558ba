"""The PCI Express capability, version 2 (PCIe Base 7.5.3). Left out: slot and root registers."""

from __future__ import annotations

from enum import IntEnum

from teeio.pcie.config_space import Capability
from teeio.pcie.registers import Access, Locked, Register, bit, bits


class PortType(IntEnum):
    """Device/Port Type of the PCI Express Capabilities register."""

    ENDPOINT = 0
    ROOT_PORT = 4
    UPSTREAM_PORT = 5
    DOWNSTREAM_PORT = 6
    RC_INTEGRATED_ENDPOINT = 9


_LOCKED = Locked.ERROR


class ExpressCapability(Capability):
    """What the function can do on the link, and its Device Control."""

    NAME = "PCI Express Capability"
    ID = 0x10
    CAPABILITIES = Register(
        0x02,
        2,
        "PCI Express Capabilities",
        (
            bits("version", 3, 0, Access.RO, "Capability version", reset=2),
            bits("port_type", 7, 4, Access.HWINIT, "Device/Port Type"),
            bits("interrupt_message", 13, 9, Access.HWINIT, "Interrupt Message Number"),
            bit("flit_mode", 15, Access.HWINIT, "Flit Mode Supported"),
        ),
    )
    DEVICE_CAPABILITIES = Register(
        0x04,
        4,
        "Device Capabilities",
        (
            bits("max_payload", 2, 0, Access.HWINIT, "Largest payload: 128 << n bytes", reset=1),
            bits("phantom_functions", 4, 3, Access.HWINIT, "Function bits usable as tag"),
            bit("extended_tag", 5, Access.HWINIT, "8-bit tags", reset=1),
            bit("role_based_errors", 15, Access.HWINIT, "Role-Based Error Reporting", reset=1),
            bit("function_level_reset", 28, Access.HWINIT, "Function Level Reset", reset=1),
            bit("tee_io", 30, Access.HWINIT, "TEE-IO (TDISP) supported"),
        ),
    )
    DEVICE_CONTROL = Register(
        0x08,
        2,
        "Device Control",
        (
            bit("correctable_reporting", 0, Access.RW, "Report correctable errors"),
            bit("non_fatal_reporting", 1, Access.RW, "Report non-fatal errors"),
            bit("fatal_reporting", 2, Access.RW, "Report fatal errors"),
            bit("unsupported_request_reporting", 3, Access.RW, "Report unsupported requests"),
            bit("relaxed_ordering", 4, Access.RW, "Enable Relaxed Ordering", reset=1),
            bits("max_payload", 7, 5, Access.RW, "Max_Payload_Size: 128 << n bytes", sticky=True),
            bit("extended_tag", 8, Access.RW, "Extended Tag Enable", reset=1, locked=_LOCKED),
            bit("phantom_functions", 9, Access.RW, "Phantom Functions Enable", locked=_LOCKED),
            bit("no_snoop", 11, Access.RW, "Enable No Snoop", reset=1, locked=_LOCKED),
            bits("max_read_request", 14, 12, Access.RW, "Max_Read_Request_Size: 128 << n bytes", reset=2),
            bit("initiate_flr", 15, Access.ACT, "Initiate Function Level Reset", locked=_LOCKED),
        ),
    )
    DEVICE_STATUS = Register(
        0x0A,
        2,
        "Device Status",
        (
            bit("correctable", 0, Access.RW1C, "Correctable error detected"),
            bit("non_fatal", 1, Access.RW1C, "Non-fatal error detected"),
            bit("fatal", 2, Access.RW1C, "Fatal error detected"),
            bit("unsupported_request", 3, Access.RW1C, "Unsupported request detected"),
            bit("transactions_pending", 5, Access.RO, "Non-posted requests are outstanding"),
        ),
    )
    LINK_CAPABILITIES = Register(
        0x0C,
        4,
        "Link Capabilities",
        (
            bits("max_speed", 3, 0, Access.HWINIT, "Max Link Speed", reset=5),
            bits("max_width", 9, 4, Access.HWINIT, "Maximum Link Width", reset=16),
            bits("port_number", 31, 24, Access.HWINIT, "Port Number"),
        ),
    )
    LINK_CONTROL = Register(
        0x10,
        2,
        "Link Control",
        (
            bits("aspm", 1, 0, Access.RW, "Active State Power Management"),
            bit("common_clock", 6, Access.RW, "Common clock"),
            bit(
                "flit_mode_disable",
                13,
                Access.RW,
                "Flit Mode Disable: of the upper port, for when the link next comes up",
            ),
        ),
    )
    LINK_STATUS = Register(
        0x12,
        2,
        "Link Status",
        (
            bits("speed", 3, 0, Access.RO, "Current Link Speed", reset=5),
            bits("width", 9, 4, Access.RO, "Negotiated Link Width", reset=16),
        ),
    )
    DEVICE_CAPABILITIES_2 = Register(
        0x24,
        4,
        "Device Capabilities 2",
        (
            bit("timeout_disable", 4, Access.HWINIT, "Completion timeout can be disabled"),
            bit("ten_bit_tag_completer", 16, Access.HWINIT, "10-bit tags as completer"),
            bit("end_end_prefix", 21, Access.HWINIT, "End-End TLP prefixes", reset=1),
            bits("max_end_end_prefixes", 23, 22, Access.HWINIT, "0: 4 prefixes", reset=0),
        ),
    )
    DEVICE_CONTROL_2 = Register(
        0x28,
        2,
        "Device Control 2",
        (
            bits("completion_timeout", 3, 0, Access.RW, "Completion Timeout Value"),
            bit("timeout_disable", 4, Access.RW, "Completion Timeout Disable"),
            bit("ari_forwarding", 5, Access.RW, "ARI Forwarding Enable"),
            bit("atomic_requester", 6, Access.RW, "AtomicOp Requester Enable"),
            bit("ido_request", 8, Access.RW, "ID-based ordering of requests"),
            bit("ido_completion", 9, Access.RW, "ID-based ordering of completions"),
            bit("ltr", 10, Access.RW, "Latency tolerance reporting"),
            bit("ten_bit_tag", 12, Access.RW, "10-Bit Tag Requester Enable", locked=_LOCKED),
        ),
    )
    LINK_STATUS_2 = Register(0x32, 2, "Link Status 2", (bit("flit_mode", 10, Access.RO, "Flit Mode Status: in use"),))

    def __init__(
        self,
        port_type: PortType = PortType.ENDPOINT,
        *,
        tee_io: bool = False,
        flr: bool = True,
        flit_mode: bool = False,
    ) -> None:
        super().__init__(0x3C)
        self.set(self.CAPABILITIES, port_type=port_type, flit_mode=int(flit_mode))
        self.set(
            self.DEVICE_CAPABILITIES,
            tee_io=int(tee_io),
            function_level_reset=int(flr and port_type is PortType.ENDPOINT),
        )

    @property
    def max_payload(self) -> int:
        """Max_Payload_Size in bytes; a value beyond what the function supports counts as that."""
        enabled = min(self.get(self.DEVICE_CONTROL, "max_payload"), self.get(self.DEVICE_CAPABILITIES, "max_payload"))
        return 128 << min(enabled, 5)

    @property
    def max_read_request(self) -> int:
        """Max_Read_Request_Size in bytes."""
        return 128 << min(self.get(self.DEVICE_CONTROL, "max_read_request"), 5)
