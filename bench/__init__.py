"""Benchmarks: how fast, against what, and how that was measured. See README.md beside this file."""
