"""Shifts the clocks of a running process: `clocks.c`, compiled and preloaded, and the file that it reads the shifts of.

Debian's faketime will not do: it knows nothing of `sem_clockwait`, by which Python waits for a lock.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clocks.c")
COMPILER = shutil.which("cc")
SHIFTS = struct.Struct("<3q")


def compile_shim(directory: Path) -> Path:
    """The shared object that is to be preloaded."""
    assert COMPILER is not None
    shim = directory / "clocks.so"
    command = [COMPILER, "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(shim), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return shim


class Clocks:
    """The clocks of whoever runs in `environment`. Shifts are seconds, and hold at once."""

    def __init__(self, shim: Path, shifts: Path) -> None:
        shifts.write_bytes(SHIFTS.pack(0, 0, 0))
        self.environment = {"LD_PRELOAD": str(shim), "FASTKV_TEST_CLOCKS": str(shifts)}
        with shifts.open("r+b") as file:
            self._mapped = mmap.mmap(file.fileno(), SHIFTS.size)

    def set_wall(self, shift_s: float) -> None:
        """What the time of day is off by."""
        struct.pack_into("<q", self._mapped, 0, int(shift_s * 1e9))

    def stand_still(self, for_s: float, *, also_boot_time: bool = False) -> None:
        """CLOCK_MONOTONIC has not moved for so long, as in a machine that was suspended.

        CLOCK_BOOTTIME moves in such a machine; `also_boot_time` makes one that no kernel has.
        """
        still = (1, 2) if also_boot_time else (1,)
        for clock in still:
            (before,) = struct.unpack_from("<q", self._mapped, 8 * clock)
            struct.pack_into("<q", self._mapped, 8 * clock, before - int(for_s * 1e9))

    def close(self) -> None:
        self._mapped.close()
