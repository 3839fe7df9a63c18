"""A power cut as a real log survives it: torn in the middle of a record, at any byte, or with sectors out of order.

`MemoryDisk.crash` loses whole records, because that is what `Wal` makes of a torn end. Here a simulated machine's crash
takes the long way: what its disk has is written by the real `Wal`, what was under way is torn in the file, and the
recovery has to find one of the states that lie between. The simulation goes on with that one.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from fastkv.errors import DamagedLog
from fastkv.log_types import HardState
from fastkv.storage.memory_log import LogImage, MemoryDisk, Record, Restart
from fastkv.storage.wal import Wal
from tests.sim.truth import Violation

SECTOR_BYTES = 512
SEGMENT_BYTES = 1 << 20
"""So large that what a simulation keeps in its log fits into one."""

Content = tuple[tuple[int, str], tuple[int, int], list[tuple[int, bytes]]]


def crash(disk: MemoryDisk, rng: random.Random, parent: Path) -> None:
    """The power goes. ValueError and Violation where the recovery finds something else than was written."""
    with TemporaryDirectory(dir=parent) as directory:
        whole, torn = Path(directory, "whole"), Path(directory, "torn")
        begin, end = _write(disk, whole, torn)
        _tear(next(torn.glob("*1.wal")), begin, end, rng)
        found = _recovered(torn, disk)
    for image in _possible(disk):
        if _content(image) == found:
            disk.durable = image
            disk.under_way.clear()
            disk.lives += 1
            return
    raise Violation(f"a torn log is recovered as {found[:2]} and {len(found[2])} entries, which it never was")


def _open(directory: Path, *, keep_above: int = 0) -> Wal:
    return Wal(directory, cluster="simulation", node_id="node", segment_bytes=SEGMENT_BYTES, keep_above=keep_above)


def _write(disk: MemoryDisk, whole: Path, torn: Path) -> tuple[int, int]:
    """A log of all that was written, and a copy of it; which bytes of it were under way."""
    wal, image = _open(whole), disk.durable
    if image.base_index:
        wal.restart(image.base_index, image.base_term)
    wal.wait(wal.append(image.hard_state, image.segments))
    begin, durable = wal._offset, wal._known_durable()
    wal._known_durable = lambda: durable                        # type: ignore[method-assign]
    ticket = 0
    for _, record in disk.under_way:
        ticket = _append(wal, record)
    wal.wait(ticket)
    end = wal._offset
    # The next segment, which a thread may be preparing just now, is not part of the log yet.
    shutil.copytree(whole, torn, ignore=shutil.ignore_patterns("prepared*"))
    wal.close()
    return begin, end


def _append(wal: Wal, record: Record) -> int:
    if isinstance(record, HardState):
        return wal.append(record, [])
    if isinstance(record, Restart):
        return wal.restart(record.index, record.term)
    return wal.append(None, [record])


def _tear(path: Path, begin: int, end: int, rng: random.Random) -> None:
    """Of the bytes that were under way, the first few are there; or some of the sectors, in no order."""
    data = bytearray(path.read_bytes())
    if rng.random() < 0.6:
        cut = rng.randint(begin, end)
        data[cut:end] = bytes(end - cut)
    else:
        for sector in range(begin - begin % SECTOR_BYTES, end, SECTOR_BYTES):
            if rng.random() < 0.5:
                first, last = max(sector, begin), min(sector + SECTOR_BYTES, end)
                data[first:last] = bytes(last - first)
    path.write_bytes(data)


def _recovered(directory: Path, disk: MemoryDisk) -> Content:
    bases = [disk.durable.base_index, *(record.index for _, record in disk.under_way if isinstance(record, Restart))]
    try:
        wal = _open(directory, keep_above=bases[0])
    except DamagedLog:
        wal = _open(directory, keep_above=bases[-1])
    found = wal.recovered
    image = LogImage()
    image.hard_state, image.segments = found.hard_state, found.segments
    image.base_index, image.base_term = found.base_index, found.base_term
    content = _content(image)
    wal.close()
    return content


def _possible(disk: MemoryDisk) -> Iterator[LogImage]:
    """What the disk may have: what was durable, and then one record more each."""
    image = disk.durable
    yield image
    for _, record in disk.under_way:
        image = image.copy()
        image.write(record)
        yield image


def _content(image: LogImage) -> Content:
    state = image.hard_state
    entries = [(run.term, bytes([entry.kind]) + entry.body) for run in image.segments for entry in run.batch.entries()]
    return (state.term, state.vote), (image.base_index, image.base_term), entries
