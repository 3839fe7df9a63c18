"""Frames, with all of the stream at hand at once: the twin of `fastkv._core.frames`."""

from __future__ import annotations

import struct

HEADER = struct.Struct("<IBBHQ")

Frame = tuple[int, int, int, int, bytes]
"""Opcode, flags, code, request id, body."""


def encode_frame(frame: Frame) -> bytes:
    opcode, flags, code, request_id, body = frame
    return HEADER.pack(len(body), opcode, flags, code, request_id) + body


def cut(stream: bytes, limit_bytes: int) -> tuple[list[Frame], bytes, bool]:
    """The complete frames, what follows them, and whether that begins with a frame over the limit."""
    frames: list[Frame] = []
    while len(stream) >= HEADER.size:
        nbytes, opcode, flags, code, request_id = HEADER.unpack_from(stream)
        if nbytes > limit_bytes:
            return frames, stream, True
        if len(stream) < HEADER.size + nbytes:
            break
        frames.append((opcode, flags, code, request_id, stream[HEADER.size : HEADER.size + nbytes]))
        stream = stream[HEADER.size + nbytes :]
    return frames, stream, False
