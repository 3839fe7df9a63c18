"""`debian:bookworm-slim` for an engine: the real one, or, where no registry is reached, a stand-in from debootstrap.

The stand-in is slimmed as the real one is, and has what this machine needs to reach its package indexes: apt's sources
and settings, pip's, and the certificate authorities. They are in the stand-in alone, and in no file of the project.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deploy.engine import Engine, EngineUnavailable

NAME = "debian:bookworm-slim"
PULL_LIMIT_S = 120.0
BOOTSTRAP_LIMIT_S = 900.0
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
# What the real slim image is made without.
LEFT_OUT = (
    "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/linda", "usr/share/groff",
    "var/cache", "var/lib/apt/lists", "var/log",
)  # fmt: skip


@contextmanager
def base_image(engine: Engine, directory: Path) -> Iterator[str]:
    """See that the engine has the image; what kind it is. EngineUnavailable where it cannot be had."""
    if engine.docker("images", "--quiet", NAME):
        yield "the engine's own image"
        return
    if _pulled(engine):
        yield "pulled from a registry"
        return
    _stand_in(engine, directory)
    try:
        yield "a stand-in from debootstrap"
    finally:
        engine.docker("rmi", "--force", NAME, check=False)


def _pulled(engine: Engine) -> bool:
    try:
        return engine.run("docker", "pull", "--quiet", NAME, check=False, limit_s=PULL_LIMIT_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _stand_in(engine: Engine, directory: Path) -> None:
    if not shutil.which("debootstrap"):
        raise EngineUnavailable("no image registry is reached, and no debootstrap: apt-get install debootstrap")
    if os.geteuid() != 0:
        raise EngineUnavailable("no image registry is reached, and only root can make an image with debootstrap")
    root = directory / "bookworm"
    command = ["debootstrap", "--variant=minbase", "bookworm", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOOTSTRAP_LIMIT_S, check=False)
    if done.returncode:
        raise EngineUnavailable(f"no image registry is reached, and debootstrap failed: {done.stdout[-500:]}")
    _slim(root)
    _give_settings(root)
    archive = directory / "bookworm.tar"
    subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
    shutil.rmtree(root)
    engine.docker("import", str(archive), NAME)
    archive.unlink()


def _slim(root: Path) -> None:
    for name in LEFT_OUT:
        for found in (root / name).glob("*"):
            shutil.rmtree(found) if found.is_dir() and not found.is_symlink() else found.unlink()
    for found in (root / "usr/share/doc").rglob("*"):
        if found.is_symlink() or (found.is_file() and found.name != "copyright"):
            found.unlink()


def _give_settings(root: Path) -> None:
    """This machine's ways to the package indexes."""
    settings = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=True).stdout
    wanted = [line for line in settings.splitlines() if "::IndexTargets" not in line and "::cdrom" not in line.lower()]
    wanted.append('Acquire::Retries "5";')
    (root / "etc/apt/apt.conf.d/99machine").write_text("\n".join(wanted) + "\n")
    lines = ["[global]", "retries = 10"]
    if AUTHORITIES.exists():
        # Not where Debian's own package puts them: installing that would replace them.
        shutil.copyfile(AUTHORITIES, root / "etc/pip-authorities.crt")
        lines.append("cert = /etc/pip-authorities.crt")
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    indexes = [line.partition("=")[2].strip("'") for line in listed.stdout.splitlines() if ".index-url=" in line]
    lines += [f"index-url = {index}" for index in indexes[-1:]]
    lines += [f"proxy = {os.environ[name]}" for name in ("https_proxy", "HTTPS_PROXY") if os.environ.get(name)][:1]
    (root / "etc/pip.conf").write_text("\n".join(lines) + "\n")
