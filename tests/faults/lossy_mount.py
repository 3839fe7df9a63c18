"""A mounted lossy disk, as a test holds it: cut its power, mount it anew, and unmount it whatever happens."""

from __future__ import annotations

import ctypes.util
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.faults.lossy_disk import Kind, Loss

ROOT = Path(__file__).parents[2]
LIBRARY = "fuse3"
"""The binding would take version 2 where both are there."""


class CannotMount(Exception):
    """This machine mounts no file systems of ours; the text says what is missing."""


class LossyMount:
    """A lossy disk at `path`, which is made. `directory` holds the mount point, the disk between mounts, and a log."""

    def __init__(self, directory: Path, name: str = "disk") -> None:
        self.path = directory / name
        self._disk_file = directory / f"{name}.pickle"
        self._log_file = directory / f"{name}.log"
        self._server: subprocess.Popen[str] | None = None
        self.path.mkdir(parents=True)
        self.mount()

    # -- mounting ------------------------------------------------------------------------------------------------------

    def mount(self) -> None:
        """Mount what the last power cut has left. CannotMount where the machine does not let us."""
        missing = what_is_missing()
        if missing:
            raise CannotMount(missing)
        command = [sys.executable, "-m", "tests.faults.lossy_fs", str(self.path), str(self._disk_file)]
        with self._log_file.open("ab") as log:
            self._server = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, "FUSE_LIBRARY_NAME": LIBRARY},
            )
        try:
            mounted = self._hear().get("mounted")
        except ConnectionError:
            mounted = False
        if not mounted:
            self.unmount()
            raise CannotMount(f"mounting failed: {self._log_file.read_text(errors='replace').strip()[-500:]}")

    def unmount(self) -> None:
        """End the server, and take the mount away, whoever still has something open there. Idempotent."""
        if self._server is not None:
            self._server.kill()         # with it goes the connection: every call there fails from now on
            self._server.wait()
            for pipe in (self._server.stdin, self._server.stdout):
                assert pipe is not None
                pipe.close()
            self._server = None
        if os.path.ismount(self.path) or _is_dead(self.path):
            how = ["umount", "--lazy"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
            subprocess.run([*how, str(self.path)], check=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unmount()

    # -- what happens to the disk --------------------------------------------------------------------------------------

    def cut(self, loss: Loss, seed: int) -> None:
        """The power goes: what was not synced is lost, as `loss` and the seed say, and every call fails from now on."""
        self._order("cut", loss=loss, seed=seed)

    def power_on(self) -> None:
        """After a cut: mount anew. Whoever had something open there has lost it."""
        assert self.changes()["off"], "the power was not cut"
        self.unmount()
        self.mount()

    def lie(self, lies: bool = True) -> None:
        """From now on a sync says that it has succeeded, and makes nothing durable."""
        self._order("lie", lies=lies)

    def arm_kill(self, at: int, kinds: Iterable[Kind] = tuple(Kind)) -> None:
        """Before the `at`-th change of these kinds takes effect, whoever calls is killed; the disk goes on."""
        self._order("arm", at=at, kinds=list(kinds), loss="", seed=0)

    def arm_cut(self, at: int, loss: Loss, seed: int, kinds: Iterable[Kind] = tuple(Kind)) -> None:
        """Before the `at`-th change of these kinds takes effect, the power goes, and whoever calls is killed."""
        self._order("arm", at=at, kinds=list(kinds), loss=loss, seed=seed)

    def changes(self) -> dict[str, Any]:
        """`changes` of the armed kinds since then, whether it has `fired`, whether the power is `off`."""
        return self._order("changes")

    def _order(self, what: str, **more: object) -> dict[str, Any]:
        assert self._server is not None
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self._server.stdin.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._server is not None
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            raise ConnectionError(f"the file system's server has ended; see {self._log_file}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _is_dead(path: Path) -> bool:
    """Whether a mount is there whose server is gone."""
    try:
        path.stat()
    except OSError:
        return True
    return False


def what_is_missing() -> str:
    """What this machine lacks for mounting a file system of ours; empty where it has all."""
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse: load the kernel's fuse module, or start the container with --device /dev/fuse"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "fusermount3 is missing: sudo apt-get install fuse3"
    if ctypes.util.find_library(LIBRARY) is None:
        return "libfuse3 is missing: sudo apt-get install fuse3"
    if importlib.util.find_spec("mfusepy") is None:
        return "the Python package mfusepy is missing: pip install 'fastkv[dev]'"
    return ""


def mounted_or_skipped(directory: Path, name: str = "disk") -> LossyMount:
    """A fresh lossy disk, for a test; skips it, and says so, where none can be mounted."""
    try:
        return LossyMount(directory, name)
    except CannotMount as why:
        pytest.skip(f"power loss is NOT tested: {why}")
