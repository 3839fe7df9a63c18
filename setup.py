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

DIRECTIVES: dict[str, object] = {
    "language_level": "3",
    "embedsignature": True,
    "freethreading_compatible": False,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "overflowcheck": DEBUG,
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
        extra_compile_args=["-O0", "-g"] if DEBUG else ["-O3", "-fno-strict-aliasing"],
        libraries=["pthread"],
    )


setup(
    ext_modules=cythonize(
        [extension(name) for name in modules()],
        compiler_directives=DIRECTIVES,
        build_dir=f"build/cython-{'debug' if DEBUG else 'release'}",
        force=DEBUG,
    ),
    options={"build_ext": {"build_temp": f"build/temp-{'debug' if DEBUG else 'release'}"}},
)
