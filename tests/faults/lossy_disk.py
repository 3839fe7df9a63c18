"""A disk that keeps what was synced and may lose the rest: the rules, without a file system around them.

What is written, created, renamed or removed is seen at once, as the kernel's caches show it, and is *volatile* until it
is synced. Syncing a file makes its bytes and its size durable, not its name; syncing a directory makes the names in it
durable, not what they stand for. `cut` is the power loss: of what was volatile it keeps nothing, or what a seed says.

* A sector of 512 bytes is written whole or not at all. It comes back as it was after any one of the writes that
  touched it since the last sync, each sector for itself; or all of a file comes back as of one moment, the write under
  way at that moment torn behind one of its sectors.
* The changes of a directory come back up to one of them, as from a journal, or each by itself. A rename within a
  directory is one change; into another directory it is one change in each.

POSIX promises no more than that; real file systems are kinder.
"""

from __future__ import annotations

import enum
import errno
import os
import random
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

SECTOR_BYTES = 512
ROOT = 1


class Loss(enum.StrEnum):
    """What becomes of what was not synced."""

    ALL = "all"
    """It is gone."""
    MOMENT = "moment"
    """Each file and directory is as of one moment since its last sync."""
    SECTORS = "sectors"
    """Each sector, and each change of a name, is kept or lost by itself."""


class Kind(enum.StrEnum):
    """What a change of the disk is."""

    WRITE = "write"
    """Bytes, or a size."""
    NAME = "name"
    """Create, rename, remove."""
    SYNC = "sync"
    """A file is made durable."""
    SYNC_NAMES = "sync-names"
    """A directory is made durable."""


class _Write(NamedTuple):
    """Bytes written at an offset, and how long the file is behind it."""

    offset: int
    data: bytes
    size: int


@dataclass(slots=True)
class File:
    """A file: what readers see, what is durable, and the writes that lie between."""

    mode: int
    data: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[_Write] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes; a gap in front of them is zeros."""
        self._change(_Write(offset, data, max(len(self.data), offset + len(data))))

    def resize(self, size: int) -> None:
        """Cut the file off, or lengthen it with zeros."""
        end = len(self.data)
        self._change(_Write(size, bytes(max(0, end - size)), size))     # what comes back later is zeros

    def _change(self, write: _Write) -> None:
        _apply(self.data, write)
        self.pending.append(write)

    def sync(self) -> None:
        """Make bytes and size durable."""
        for write in self.pending:
            _apply(self.durable, write)
        self.pending.clear()

    def lose(self, loss: Loss, rng: random.Random) -> None:
        """The power is gone."""
        if loss is Loss.MOMENT:
            self._come_back_as_of_a_moment(rng)
        elif loss is Loss.SECTORS:
            self._come_back_by_sectors(rng)
        self.pending.clear()
        self.data = bytearray(self.durable)

    def _come_back_as_of_a_moment(self, rng: random.Random) -> None:
        kept = rng.randint(0, len(self.pending))
        for write in self.pending[:kept]:
            _apply(self.durable, write)
        if kept < len(self.pending):
            torn = self.pending[kept]
            pieces = list(_sectors(torn))
            whole = pieces[: rng.randint(0, len(pieces))]
            end = max((piece.offset + len(piece.data) for piece in whole), default=0)
            size = torn.size if rng.random() < 0.5 else min(torn.size, max(len(self.durable), end))
            for piece in whole:
                _apply(self.durable, piece._replace(size=size))

    def _come_back_by_sectors(self, rng: random.Random) -> None:
        pieces = [piece for write in self.pending for piece in _sectors(write)]
        touched: dict[int, int] = {}
        for piece in pieces:
            sector = piece.offset // SECTOR_BYTES
            touched[sector] = touched.get(sector, 0) + 1
        left = {sector: rng.randint(0, times) for sector, times in touched.items()}
        size = rng.choice([len(self.durable), *(write.size for write in self.pending)])
        for piece in pieces:
            sector = piece.offset // SECTOR_BYTES
            if left[sector]:
                left[sector] -= 1
                _apply(self.durable, piece._replace(size=max(len(self.durable), piece.offset + len(piece.data))))
        _apply(self.durable, _Write(0, b"", size))


def _apply(data: bytearray, write: _Write) -> None:
    end = write.offset + len(write.data)
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    data[write.offset : end] = write.data
    if len(data) < write.size:
        data.extend(bytes(write.size - len(data)))
    else:
        del data[write.size :]


def _sectors(write: _Write) -> Iterator[_Write]:
    """A write, sector by sector."""
    start, stop = write.offset, write.offset + len(write.data)
    while start < stop:
        end = min(stop, start - start % SECTOR_BYTES + SECTOR_BYTES)
        yield _Write(start, write.data[start - write.offset : end - write.offset], write.size)
        start = end


class _Change(NamedTuple):
    """One change of a directory: `old` goes, `new` comes and stands for the number. An empty name is none."""

    old: str
    new: str
    number: int


@dataclass(slots=True)
class Directory:
    """A directory: names as they are seen, names that are durable, and the changes that lie between."""

    mode: int
    names: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    pending: list[_Change] = field(default_factory=list)

    def change(self, old: str, new: str, number: int) -> None:
        """Create (no old name), remove (no new name) or rename."""
        change = _Change(old, new, number)
        _rename(self.names, change)
        self.pending.append(change)

    def sync(self) -> None:
        """Make the names durable."""
        self.durable = dict(self.names)
        self.pending.clear()

    def lose(self, loss: Loss, rng: random.Random) -> None:
        """The power is gone."""
        kept: Iterable[_Change] = ()
        if loss is Loss.MOMENT:
            kept = self.pending[: rng.randint(0, len(self.pending))]
        elif loss is Loss.SECTORS:
            kept = [change for change in self.pending if rng.random() < 0.5]
        for change in kept:
            _rename(self.durable, change)
        self.pending.clear()
        self.names = dict(self.durable)


def _rename(names: dict[str, int], change: _Change) -> None:
    if change.old and names.get(change.old) == change.number:
        del names[change.old]
    if change.new:
        names[change.new] = change.number


class LossyDisk:
    """Files and directories by number, as a file system sees them. Methods raise OSError as system calls do."""

    def __init__(self) -> None:
        self.nodes: dict[int, File | Directory] = {ROOT: Directory(stat.S_IFDIR | 0o755)}
        self.syncs_lie = False
        """Whether a sync says that it has succeeded, and does nothing."""
        self._next = ROOT + 1

    # -- names ---------------------------------------------------------------------------------------------------------

    def find(self, path: str) -> int:
        """The number of what is at a path."""
        number = ROOT
        for name in _parts(path):
            found = self.directory(number).names.get(name)
            if found is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            number = found
        return number

    def file(self, number: int) -> File:
        """The file of that number."""
        node = self.nodes[number]
        if isinstance(node, Directory):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return node

    def directory(self, number: int) -> Directory:
        """The directory of that number."""
        node = self.nodes[number]
        if isinstance(node, File):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return node

    def _place(self, path: str) -> tuple[Directory, str]:
        *above, name = _parts(path)
        return self.directory(self.find("/".join(above))), name

    def create(self, path: str, mode: int) -> int:
        """A new empty file; its number."""
        return self._add(path, File(stat.S_IFREG | stat.S_IMODE(mode)))

    def mkdir(self, path: str, mode: int) -> int:
        """A new directory; its number."""
        return self._add(path, Directory(stat.S_IFDIR | stat.S_IMODE(mode)))

    def _add(self, path: str, node: File | Directory) -> int:
        above, name = self._place(path)
        if name in above.names:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        number, self._next = self._next, self._next + 1
        self.nodes[number] = node
        above.change("", name, number)
        return number

    def remove(self, path: str) -> None:
        """Unlink a file, or remove a directory that is empty."""
        above, name = self._place(path)
        number = self.find(path)
        node = self.nodes[number]
        if isinstance(node, Directory) and node.names:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        above.change(name, "", number)

    def rename(self, old: str, new: str) -> None:
        """Give a file or directory another name, in place of what has it."""
        number = self.find(old)
        (source, old_name), (target, new_name) = self._place(old), self._place(new)
        replaced = self.nodes.get(target.names.get(new_name, 0))
        if isinstance(replaced, Directory) and replaced.names:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), new)
        if source is target:
            source.change(old_name, new_name, number)
        else:
            target.change("", new_name, number)
            source.change(old_name, "", number)

    # -- durability ----------------------------------------------------------------------------------------------------

    def sync(self, number: int) -> None:
        """Make a file's bytes, or a directory's names, durable."""
        if not self.syncs_lie:
            self.nodes[number].sync()

    def cut(self, loss: Loss, seed: int) -> None:
        """The power is gone and comes back: what is left is all there is, and durable."""
        rng = random.Random(seed)
        for _, node in sorted(self.nodes.items()):
            node.lose(loss, rng)
        self.collect(())

    def collect(self, opened: Iterable[int]) -> None:
        """Forget what has no name any more, seen or durable, and is not open."""
        kept: set[int] = set()
        ahead = [ROOT, *opened]
        while ahead:
            number = ahead.pop()
            node = self.nodes.get(number)
            if number in kept or node is None:
                continue
            kept.add(number)
            if isinstance(node, Directory):
                ahead += [*node.names.values(), *node.durable.values(), *(change.number for change in node.pending)]
        self.nodes = {number: node for number, node in self.nodes.items() if number in kept}


def _parts(path: str) -> list[str]:
    return [name for name in path.split("/") if name]
