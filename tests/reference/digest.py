"""The digest that the state hash is a sum of, as one would write it down to explain it: `fastkv/_core/digest.pxd`."""

from __future__ import annotations

from collections.abc import Iterable

MODULUS = 2**64
S0, S1, S2, S3, S4 = (
    0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B,
)  # fmt: skip
OF_KEY = 1


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def fold(a: int, b: int) -> int:
    """The upper half of a product, folded into the lower."""
    product = a * b
    return product % MODULUS ^ product // MODULUS


def chain(state: int, data: bytes) -> int:
    """Sixteen bytes into a chain."""
    return fold(number(data[:8]) ^ S0, number(data[8:]) ^ state)


def digest_bytes(data: bytes, seed: int) -> int:
    lanes = [seed ^ S1, seed ^ S2, seed ^ S3, seed ^ S4]
    if len(data) >= 64:
        whole = len(data) - len(data) % 64
        for at in range(0, whole, 16):
            lanes[at // 16 % 4] = chain(lanes[at // 16 % 4], data[at : at + 16])
        # What is left over, in pieces counted from the end; the last of them may reach back into what was taken.
        for lane, begin in enumerate(range(len(data) - 16, whole - 16, -16)):
            lanes[lane] = chain(lanes[lane], data[begin : begin + 16])
        mixed = fold(lanes[0] ^ lanes[1], lanes[2] ^ lanes[3])
    elif len(data) >= 16:
        mixed = lanes[0]
        for at in [*range(0, len(data) - 16, 16), len(data) - 16]:
            mixed = chain(mixed, data[at : at + 16])
    elif len(data) >= 4:
        width = 8 if len(data) >= 8 else 4
        mixed = chain(lanes[0], data[:width].ljust(8, b"\0") + data[-width:].ljust(8, b"\0"))
    else:
        three = bytes([data[0], data[len(data) // 2], data[-1]]) if data else b""
        mixed = chain(lanes[0], three.ljust(16, b"\0"))
    return fold(mixed ^ S3, len(data) ^ S4)


def digest_numbers(a: int, b: int, c: int, d: int, seed: int) -> int:
    mixed = fold(a ^ S0, b ^ seed ^ S1)
    return fold(fold(c ^ S0, d ^ mixed) ^ S3, S4)


def digest_record(key: bytes, record: bytes) -> int:
    return digest_bytes(record, digest_bytes(key, OF_KEY))


def hash_of(items: Iterable[tuple[bytes, bytes]]) -> int:
    """The state hash of a whole state."""
    return sum(digest_record(key, record) for key, record in items) % MODULUS
