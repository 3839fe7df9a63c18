"""Faults on real processes: crashes at every call, failing and full disks, and the order of effects."""
