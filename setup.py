"""Builds the compiled leaf of fastkv: every `fastkv/_core/*.pyx` becomes one extension module.

The directives of all modules stand here and nowhere else, so that one place decides what is checked. Two builds:

* the release build (default): no bounds checks, C division, assertions off;
* the debug build (`FASTKV_DEBUG=1`): bounds, None and overflow checks, assertions and line tracing on, not optimised.

`FASTKV_ONLY=entry,buffer` builds just those modules, for quick work on one of them.
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

CORE = Path("fastkv/_core")
DEBUG = os.environ.get("FASTKV_DEBUG") == "1"
ONLY = [name for name in os.environ.get("FASTKV_ONLY", "").split(",") if name]

RELEASE_ARGS = ["-O3", "-fno-strict-aliasing"]
SANITIZER = ["-fsanitize=undefined"]
DEBUG_ARGS = ["-O0", "-g", *SANITIZER, "-fno-sanitize-recover=undefined"]

DIRECTIVES: dict[str, object] = {
    "language_level": "3",
    "embedsignature": True,
    "freethreading_compatible": False,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    # Not in the debug build either: None checks forbid attributes of `self` without the GIL, and overflow checks would
    # refuse the wraparound that hashes are made of. Overflow of signed numbers is the sanitizer's.
    "nonecheck": False,
    "overflowcheck": False,
    "cdivision": not DEBUG,
    "linetrace": DEBUG,
    "profile": DEBUG,
}


def modules() -> list[str]:
    names = sorted(path.stem for path in CORE.glob("*.pyx"))
    unknown = set(ONLY) - set(names)
    if unknown:
        sys.exit(f"FASTKV_ONLY names modules that do not exist: {', '.join(sorted(unknown))}")
    return ONLY or names


def extension(name: str) -> Extension:
    macros = [("CYTHON_TRACE_NOGIL", "1")] if DEBUG else [("CYTHON_WITHOUT_ASSERTIONS", "1")]
    return Extension(
        f"fastkv._core.{name}",
        [str(CORE / f"{name}.pyx")],
        define_macros=macros,
        extra_compile_args=DEBUG_ARGS if DEBUG else RELEASE_ARGS,
        extra_link_args=SANITIZER if DEBUG else [],
        libraries=["pthread"],
    )


setup(
    ext_modules=cythonize(
        [extension(name) for name in modules()],
        compiler_directives=DIRECTIVES,
        build_dir=f"build/cython-{'debug' if DEBUG else 'release'}",
        force=DEBUG,
    ),
    options={
        "build_ext": {"build_temp": f"build/temp-{'debug' if DEBUG else 'release'}", "parallel": os.cpu_count() or 1}
    },
)
