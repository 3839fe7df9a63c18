"""Opcodes, statuses and flags as Python IntEnums; the numbers stand in `codes.pxd`."""
