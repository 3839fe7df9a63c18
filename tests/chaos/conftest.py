"""Coroutine tests run as those of the client do."""

from __future__ import annotations

from tests.client.conftest import pytest_generate_tests, pytest_pyfunc_call

__all__ = ["pytest_generate_tests", "pytest_pyfunc_call"]
