"""The compiled leaf: what runs once for each operation. Imports nothing from the rest of fastkv.

Each module here has a `.pyi` that states its Python face and a slow, readable twin in `tests/reference/` that states
what it must do; property tests hold the two together.
"""

try:
    from fastkv._core import codes as _codes
except ImportError as missing:
    raise ImportError(
        "fastkv's compiled core is not built for this Python. Build it with "
        "`pip install .` (or, in a checkout, `pip install -e .[dev]` or `python setup.py build_ext --inplace`)."
    ) from missing

del _codes
