"""A tree of attributes and links as Linux's sysfs shows it; what is there is looked up anew each time.

An attribute is a small text with a newline at its end, read by `show` and written by `store`; what fails is an errno.
The host's tree is in `host.vmm.sysfs`, a TVM's in `guest.sysfs`. Left out: uevents, permissions of users.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from teeio.errors import AuthenticationFailed, Busy, DecodeError, Incompatible, Misuse, TeeioError, TransportError

MAX_LINKS = 40
"""Links followed in one path (Linux, MAXSYMLINKS)."""

ERRNOS: tuple[tuple[type[TeeioError], int], ...] = (
    (Incompatible, errno.EOPNOTSUPP),
    (AuthenticationFailed, errno.EACCES),
    (TransportError, errno.EIO),
    (DecodeError, errno.EPROTO),
    (Busy, errno.EBUSY),
    (Misuse, errno.EINVAL),
    (TeeioError, errno.EIO),
)
"""What a failure below the PCI core is to its caller. UNCONFIRMED: Linux leaves it to each TSM driver."""


class SysfsError(TeeioError):
    """A read or a write failed with `errno`."""

    def __init__(self, number: int, reason: str, *, path: str = "") -> None:
        super().__init__(f"{path or 'sysfs'}: {errno.errorcode[number]}: {reason}")
        self.errno = number
        self.reason = reason

    @property
    def name(self) -> str:
        """The errno's name."""
        return errno.errorcode[self.errno]

    @classmethod
    def of(cls, failure: TeeioError, path: str = "") -> SysfsError:
        """Give any failure as an errno."""
        if isinstance(failure, cls):
            return cls(failure.errno, failure.reason, path=path)
        number = next(number for kind, number in ERRNOS if isinstance(failure, kind))
        return cls(number, str(failure), path=path)


@dataclass(frozen=True, slots=True)
class Attribute:
    """A file: what it reads as, without the newline, and what a write of a text at a time (seconds) does."""

    show: Callable[[], str] | None = None
    store: Callable[[str, float], object] | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link to an absolute path."""

    target: str


Entry: TypeAlias = Attribute | Link


class Sysfs(ABC):
    """One tree; all paths are absolute. Methods raise `SysfsError`."""

    @abstractmethod
    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Yield every file and link that there is now, by its own path."""

    def read(self, path: str) -> str:
        """Read an attribute, its newline included."""
        show = self._attribute(path).show
        if show is None:
            raise SysfsError(errno.EACCES, "the attribute is for writing", path=path)
        return show() + "\n"

    def write(self, path: str, text: str, now: float) -> None:
        """Write an attribute; a newline at the end is not part of the text."""
        store = self._attribute(path).store
        if store is None:
            raise SysfsError(errno.EACCES, "the attribute is for reading", path=path)
        try:
            store(text.removesuffix("\n"), now)
        except TeeioError as error:
            raise SysfsError.of(error, path) from error

    def exists(self, path: str) -> bool:
        """Tell whether there is a file, a link or a directory."""
        tree = dict(self.entries())
        try:
            real = _resolved(tree, path)
        except SysfsError:
            return False
        return real in tree or any(one.startswith(f"{real}/") for one in tree)

    def resolve(self, path: str) -> str:
        """Give a path without links (readlink -f)."""
        return _resolved(dict(self.entries()), path)

    def snapshot(self) -> dict[str, str]:
        """Give everything by path: contents, `-> target` of links, "" of what is only written."""
        return {path: _described(entry) for path, entry in sorted(self.entries())}

    def _attribute(self, path: str) -> Attribute:
        tree = dict(self.entries())
        found = tree.get(_resolved(tree, path))
        if isinstance(found, Attribute):
            return found
        raise SysfsError(errno.ENOENT, "there is no such attribute now", path=path)


def _described(entry: Entry) -> str:
    if isinstance(entry, Link):
        return f"-> {entry.target}"
    return entry.show() if entry.show else ""


def _resolved(tree: dict[str, Entry], path: str) -> str:
    """Follow the links in a path."""
    at, left = "", [part for part in path.split("/") if part]
    for _ in range(MAX_LINKS + len(left)):
        if not left:
            return at
        at = f"{at}/{left.pop(0)}"
        entry = tree.get(at)
        if isinstance(entry, Link):
            more = [part for part in entry.target.split("/") if part]
            at, left = "", more + left
    raise SysfsError(errno.ELOOP, "too many links", path=path)
