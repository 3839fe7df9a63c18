"""What a request says beside its body: the key in its path, query parameters, and conditions in headers.

All of it is checked strictly. A parameter that is misspelt, given twice or not supported is refused, because the ones
that exist are there to make a write safe or a read exact, and being ignored is the one thing they must never be.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import NoReturn

from fastkv._core.codes import Consistency
from fastkv.server.http.responses import HttpError

MAX_KEY_BYTES = 511
"""LMDB's bound, and so the cluster's."""
MAX_REVISION = 2**64 - 1
MAX_IDEMPOTENCY_KEY_BYTES = 256
IS_IDEMPOTENCY_KEY = 1 << 63
"""Set in a command's client id: what follows is no session's."""

_HEX_DIGITS = "0123456789abcdefABCDEF"
_BYTE_OF = {f"{high}{low}".encode(): bytes([int(high + low, 16)]) for high in _HEX_DIGITS for low in _HEX_DIGITS}
_CONSISTENCY = {
    b"": int(Consistency.LINEARIZABLE),
    b"linearizable": int(Consistency.LINEARIZABLE),
    b"lease": int(Consistency.LEASE_READ),
    b"stale": int(Consistency.STALE_READ),
}
_TRUTH = {b"1": True, b"true": True, b"0": False, b"false": False}
_DIGITS = re.compile(rb"[0-9]{1,20}")
_VISIBLE = re.compile(rb"[!-~]{1,256}")
_ONE_ETAG = re.compile(rb'("?)([0-9]{1,20})\1')
_ETAGS = re.compile(rb'(?:W/)?"([^"]*)"')


def invalid(message: str) -> NoReturn:
    """Refuse the request for a parameter."""
    raise HttpError(400, "INVALID_PARAMETER", message)


def shown(data: bytes, limit: int = 64) -> str:
    """Bytes of a request as a text for an error message: whatever they are, and never much of them."""
    text = data.decode(errors="backslashreplace")
    return text if len(text) <= limit else f"{text[:limit]}…"


def percent_decode(data: bytes) -> bytes:
    """RFC 3986, section 2.1. ValueError where a `%` is not followed by two hexadecimal digits."""
    if b"%" not in data:
        return data
    first, *rest = data.split(b"%")
    pieces = [first]
    for piece in rest:
        byte = _BYTE_OF.get(piece[:2])
        if byte is None:
            raise ValueError(f"%{shown(piece[:2])} is not a percent-encoded byte")
        pieces += (byte, piece[2:])
    return b"".join(pieces)


def key_from_path(encoded: bytes) -> bytes:
    """The key that stands in a path behind `/kv/`."""
    try:
        key = percent_decode(encoded)
    except ValueError as error:
        raise HttpError(400, "INVALID_KEY", f"the key is not percent-encoded: {error}") from None
    if not key:
        raise HttpError(400, "INVALID_KEY", f"a key has 1 to {MAX_KEY_BYTES} bytes")
    if len(key) > MAX_KEY_BYTES:
        raise HttpError(413, "KEY_TOO_LARGE", f"a key has at most {MAX_KEY_BYTES} bytes, this one has {len(key)}")
    return key


class Params:
    """The query parameters of one request, each of which may be taken once it is known to be one of `allowed`.

    Written as `name=value&…`, percent-encoded, `+` for a space. An empty value counts as not given.
    """

    __slots__ = ("_values",)

    def __init__(self, query: bytes, allowed: tuple[str, ...]) -> None:
        self._values: dict[str, bytes | None] = {}
        if not query:
            return
        for part in query.split(b"&"):
            if not part:
                continue
            encoded_name, equals, encoded = part.partition(b"=")
            try:
                name = percent_decode(encoded_name.replace(b"+", b" ")).decode()
                value = percent_decode(encoded.replace(b"+", b" "))
            except ValueError as error:
                invalid(f"the query is not percent-encoded UTF-8: {error}")
            if name not in allowed:
                invalid(f"there is no parameter {shown(name.encode())!r} here, only {_listed(allowed)}")
            if name in self._values:
                invalid(f"{name} is given twice")
            self._values[name] = value if equals else None

    def given(self, name: str) -> bool:
        """Whether the parameter has a value, or stands there as a bare name."""
        return self._values.get(name, b"") != b""

    def text(self, name: str) -> bytes:
        """The value's bytes, empty where it is not given."""
        value = self._values.get(name, b"")
        if value is None:
            invalid(f"{name} needs a value: {name}=…")
        return value

    def number(self, name: str, default: int, *, low: int, high: int) -> int:
        """A decimal number from `low` to `high`."""
        text = self.text(name)
        if not text:
            return default
        if not _DIGITS.fullmatch(text) or not low <= int(text) <= high:
            invalid(f"{name} is a number from {low} to {high}, not {shown(text)!r}")
        return int(text)

    def truth(self, name: str) -> bool:
        """`1` or `true`, `0` or `false`; the bare name is true."""
        value = self._values.get(name, b"")
        if value is None:
            return True
        if not value:
            return False
        if value not in _TRUTH:
            invalid(f"{name} is true or false, not {shown(value)!r}")
        return _TRUTH[value]

    def consistency(self) -> int:
        """`consistency=linearizable|lease|stale`, the first of them by default."""
        text = self.text("consistency")
        if text not in _CONSISTENCY:
            invalid(f"consistency is linearizable, lease or stale, not {shown(text)!r}")
        return _CONSISTENCY[text]


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none at all"


def write_condition(query: bytes, headers: Mapping[bytes, bytes]) -> int | None:
    """The mod revision that a write asks of its key: 0 for *must not exist*, None for no condition.

    Takes the one condition out of `if_revision=`, `If-Match` and `If-None-Match`, and refuses what would promise a
    safety that this release does not give.
    """
    params = Params(query, ("if_revision", "ttl"))
    if params.given("ttl"):
        invalid("ttl is not supported yet: keys do not expire in this release")
    conditions = []
    if params.given("if_revision"):
        conditions.append(params.number("if_revision", 0, low=0, high=MAX_REVISION))
    if b"if-match" in headers:
        conditions.append(_if_match(headers[b"if-match"]))
    if b"if-none-match" in headers:
        if headers[b"if-none-match"].strip() != b"*":
            invalid("on a write If-None-Match can only be *: the key must not exist")
        conditions.append(0)
    if len(conditions) > 1:
        invalid("a write takes one condition: if_revision, If-Match or If-None-Match")
    return conditions[0] if conditions else None


def _if_match(value: bytes) -> int:
    match = _ONE_ETAG.fullmatch(value.strip())
    if match is None or not 1 <= int(match[2]) <= MAX_REVISION:
        invalid('If-Match on a write is one ETag, which is a revision of 1 or more in quotes: "42"')
    return int(match[2])


def idempotency_key(headers: Mapping[bytes, bytes]) -> tuple[int, int] | None:
    """What a command carries of the header `Idempotency-Key`: 127 bits of a hash of its text; None without one.

    The texts are the clients' own, so that only a cryptographic hash keeps one from meeting another's by intent.
    """
    text = headers.get(b"idempotency-key")
    if text is None:
        return None
    if not _VISIBLE.fullmatch(text):
        invalid(f"Idempotency-Key is one text of 1 to {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters")
    digest = hashlib.blake2b(text, digest_size=16, person=b"idempotency-key").digest()
    return int.from_bytes(digest[:8], "little") | IS_IDEMPOTENCY_KEY, int.from_bytes(digest[8:], "little")


def etag_listed(value: bytes, revision: int) -> bool:
    """Whether an `If-Match` or `If-None-Match` of a read names the revision (RFC 9110, section 13.1)."""
    value = value.strip()
    return value == b"*" or b"%d" % revision in _ETAGS.findall(value)
