"""Pages on what hardware has: registers, TLPs, the trusted tables of an IOMMU."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from teeio.docs.parts import first_line, grid, layout
from teeio.host import dmar_tables, invalidation_queue
from teeio.host.iommu_faults import NUMBERS, FaultReason
from teeio.host.tdx.trusted_tables import PASID_TRANSITIONS, TRANSITIONS
from teeio.pcie import capabilities, flit_headers, tlp_headers
from teeio.pcie.flit_types import FLIT_TYPES, TRAILER_SIZES, OhcA
from teeio.pcie.registers import Block, declared_registers
from teeio.wire import Record


def _blocks() -> Iterator[type[Block]]:
    for module in sorted(pkgutil.iter_modules(capabilities.__path__), key=lambda found: found.name):
        loaded = importlib.import_module(f"{capabilities.__name__}.{module.name}")
        for value in vars(loaded).values():
            if isinstance(value, type) and issubclass(value, Block) and value.__module__ == loaded.__name__:
                yield value


def registers_page() -> Iterator[str]:
    """Register maps."""
    yield from ("# PCIe registers", "", "The last column says what a change does to a TDI in CONFIG_LOCKED or RUN.", "")
    for block in _blocks():
        registers = declared_registers(block)
        if not registers:
            continue
        yield from (f"## {block.__name__}", "", first_line(block), "")
        yield from grid(
            ("offset", "register", "bits", "field", "access", "reset", "meaning", "while locked"),
            (
                (
                    f"{register.offset:#04x}",
                    register.name,
                    f"{field.low + field.width - 1}:{field.low}" if field.width > 1 else field.low,
                    field.name,
                    field.access.name,
                    f"{field.reset:#x}",
                    field.doc,
                    field.locked.value,
                )
                for register in registers
                for field in register.fields
            ),
        )


def tlps_page() -> Iterator[str]:
    """TLPs in both modes of a link."""
    yield from ("# TLPs", "", "## Types", "")
    yield from grid(
        (
            "TLP",
            "name",
            "header",
            "byte 0, Non-Flit Mode",
            "Type, Flit Mode",
            "flow-control class",
            "on a Selective stream",
        ),
        (
            (
                row.kind.label,
                row.kind.name,
                f"{row.size // 4} DW",
                f"{row.first_byte:#04x}",
                f"{row.type:#04x}",
                row.kind.sub_stream.name,
                "yes" if row.kind.selective else "no",
            )
            for row in FLIT_TYPES.values()
        ),
    )
    yield from ("## OHC-A in Flit Mode", "")
    yield from (f"- {form.value}" for form in OhcA)
    yield from ("", "## Trailers in Flit Mode", "")
    yield from grid(
        ("TS", "trailer", "bytes"),
        ((f"{trailer:03b}b", trailer.name, size) for trailer, size in TRAILER_SIZES.items()),
    )
    for title, module in (("Layouts of Non-Flit Mode", tlp_headers), ("Layouts of Flit Mode", flit_headers)):
        yield from (f"## {title}", "")
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, Record) and cls.__module__ == module.__name__:
                yield from layout(cls, 0, cls.__name__)


def iommu_page() -> Iterator[str]:
    """The trusted tables of an IOMMU: layouts, states, invalidations, faults."""
    yield from ("# Trusted tables of the IOMMU", "", "## Entries, from the root down", "")
    for level, kind in sorted(dmar_tables.TABLES.items(), reverse=True):
        yield from layout(kind.entry, 0, f"{level.name}: {kind.size} bytes")
    yield from ("## States of an entry, by the calls that change them", "")
    for title, transitions in (("leads to a table", TRANSITIONS), ("leads to a TVM (PASID)", PASID_TRANSITIONS)):
        yield from grid(
            (f"an entry that {title} is", "call", "and becomes"),
            ((state.name, move.value, after.name) for (state, move), after in transitions.items()),
        )
    yield from ("TDH.DMAR.REMOVE needs the invalidation of the entry to be complete as well.", "")
    yield from ("## Descriptors of the invalidation queue", "")
    for cls in invalidation_queue.DESCRIPTORS:
        yield from layout(cls, 0, cls.__name__)
    yield from ("## Why a request is blocked", "")
    yield from grid(
        ("reason", "number in VT-d", "that is"),
        ((one.name, f"{NUMBERS[one]:#04x}" if one in NUMBERS else "-", one.value) for one in FaultReason),
    )
