"""The import rules of docs/architecture.md, held over the syntax trees: a trust boundary is an import boundary."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "teeio"

RANKS: dict[str, tuple[int, set[str]]] = {
    # package: (rank, what it may import besides all of the lower ranks named in LOWER)
    "errors": (0, set()),
    "wire": (0, {"errors"}),
    "flow": (0, {"errors", "wire"}),
    "observe": (0, {"errors", "wire", "flow"}),
    "crypto": (1, {"errors", "wire"}),
    "spdm": (2, set()),
    "pcie": (2, set()),
    "ide_km": (3, {"spdm"}),
    "tdisp": (3, {"spdm"}),
    "cxl": (3, {"spdm"}),
    "mctp": (3, {"spdm"}),
    "tcp_binding": (3, {"spdm"}),
    "raw_binding": (3, {"spdm"}),
    "pldm": (3, {"mctp"}),
    "abi": (4, set()),
    "attestation": (4, set()),
    "capture": (4, set()),
    "accelerator_interface": (4, set()),
    "sysfs": (4, set()),
    "device": (5, {"abi", "attestation", "accelerator_interface"}),
    "host": (5, {"abi", "attestation", "sysfs"}),
    "guest": (5, {"abi", "attestation", "accelerator_interface", "sysfs"}),
    "transport": (6, set()),
    "identity_files": (7, set()),
    "platform": (7, set()),
    "scenarios": (7, {"platform"}),
    "costs": (7, {"platform"}),
    "explorer": (7, {"platform", "scenarios"}),
    "faults": (7, {"platform"}),
    "conformance": (7, {"platform", "scenarios"}),
    "interop": (7, {"identity_files"}),
    "cli": (8, set()),
    "web": (8, set()),
    "docs": (8, {"cli"}),
    "__main__": (9, {"cli"}),
    "__init__": (9, set()),
}
"""Who may import whom; a package may always import itself."""

CLOCKED = {"transport", "identity_files", "interop", "cli", "web", "__main__", "docs"}
OUTSIDE_WORLD = {
    "socket",
    "ssl",
    "threading",
    "asyncio",
    "time",
    "random",
    "secrets",
    "subprocess",
    "multiprocessing",
    "select",
    "pathlib",
    "tempfile",
    "shutil",
    "signal",
}
ALLOWED_OUTSIDE = {
    ("crypto/entropy.py", "os"),
    ("scenarios", "pathlib"),
    ("explorer/search.py", "multiprocessing"),
    ("explorer/search.py", "os"),
}


def _modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def _package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def _read(path: Path) -> tuple[bool, frozenset[str]]:
    """Tell whether a module, unless it is empty, has a docstring; give the names that it imports."""
    tree = ast.parse(path.read_text())
    return not tree.body or bool(ast.get_docstring(tree)), frozenset(_names(tree, path))


def _imports(path: Path) -> frozenset[str]:
    return _read(path)[1]


def _names(tree: ast.Module, path: Path) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _may_import(package: str, other: str) -> bool:
    if package == other:
        return True
    rank, extra = RANKS[package]
    other_rank = RANKS[other][0]
    if other in extra:
        return True
    if package in ("errors", "wire", "flow", "observe", "crypto"):
        return False
    if package == "transport":
        return other in {"errors", "flow", "mctp", "tcp_binding", "raw_binding", "pcie", "spdm", "observe"}
    if rank <= 5 and other == "transport":
        return False
    return other_rank < rank and not (rank == 3 and other == "pcie") and not (rank == 5 and other == "capture")


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    package = _package(path)
    for name in _imports(path):
        if name.startswith("teeio."):
            other = name.split(".")[1]
            if other in RANKS:
                assert _may_import(package, other), f"{package} may not import {name}"


def test_inside_the_host_the_tsm_and_the_vmm_never_import_each_other() -> None:
    for side, other in (("tdx", "vmm"), ("vmm", "tdx")):
        for path in (SOURCE / "host" / side).rglob("*.py"):
            assert not any(name.startswith(f"teeio.host.{other}") for name in _imports(path)), path


def test_only_crypto_uses_the_cryptography_library() -> None:
    libraries = {"cryptography", "Crypto"}
    users = {_package(path) for path in _modules() if libraries & {name.split(".")[0] for name in _imports(path)}}
    assert users <= {"crypto"}


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_transport_and_above_touch_the_outside_world(path: Path) -> None:
    if _package(path) in CLOCKED:
        return
    relative = str(path.relative_to(SOURCE))
    for name in _imports(path):
        root = name.split(".")[0]
        if root in OUTSIDE_WORLD or (root == "os" and name == "os"):
            assert any(relative.startswith(where) and root == what for where, what in ALLOWED_OUTSIDE), (
                f"{relative}: {name}"
            )


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert _read(path)[0], f"{path} has no docstring"


def test_no_layout_is_decoded_by_hand_where_a_declaration_belongs() -> None:
    """`struct` belongs to framings outside the protocols, and to what serves every IDE TLP, where no field is decoded: frames and IVs."""
    allowed = {"transport/platform_port.py", "pcie/ide_frame.py", "pcie/ide_key.py"}
    for path in _modules():
        relative = str(path.relative_to(SOURCE))
        if relative not in allowed:
            assert "struct" not in set(_imports(path)), f"{relative} uses struct"
