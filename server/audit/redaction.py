"""Takes what identifies people out of payloads: the policy `redacted`.

It finds what has a form of its own (addresses, numbers); it does not find names. Digits in full-width form, as in Chinese
text, are found too and are written as ASCII digits where they stay.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Mapping
from typing import Any

_WIDE = str.maketrans("０１２３４５６７８９＠．－＋（）Ｘｘ", "0123456789@.-+()Xx")
_WORTH_A_LOOK = re.compile(r"[@0-9]|::")

_EMAIL = re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}")
_IPV6 = re.compile(
    r"(?<![0-9A-Za-z:.])(?:(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}"
    r"|(?:[0-9A-Fa-f]{1,4}:){1,7}:(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,6})?"
    r"|::[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,6})(?![0-9A-Za-z:])"
)
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?<![0-9.])(?:{_OCTET}\.){{3}}{_OCTET}(?![0-9]|\.[0-9])")
_RESIDENT = re.compile(
    r"(?<![0-9])[1-9][0-9]{5}(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}[0-9Xx](?![0-9A-Za-z])"
    r"|(?<![0-9])[1-9][0-9]{7}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}(?![0-9])"
)
_SOCIAL = re.compile(r"(?<![0-9-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![0-9]|-[0-9])")
_CARD = re.compile(r"(?<![0-9])[0-9](?:[ -]?[0-9]){12,18}(?![0-9])")
_PHONE = re.compile(
    r"(?<![0-9])(?:(?:\+|00)?86[ -]?)?1[3-9][0-9][ -]?[0-9]{4}[ -]?[0-9]{4}(?![0-9])"  # Chinese mobile
    r"|(?<![0-9+])\+[0-9]{1,3}(?:[ .-]?\(?[0-9]{1,4}\)?){2,6}(?![0-9])"  # international
    r"|(?<![0-9])\(?0[0-9]{2,3}\)?[ -][0-9]{7,8}(?![0-9])"  # Chinese landline
    r"|(?<![0-9])[48]00-[0-9]{3,4}-[0-9]{3,4}(?![0-9])"
    r"|(?<![0-9])(?:\([0-9]{3}\) ?|[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}(?![0-9])"  # North American
)
_NUMBER = re.compile(r"[0-9]{7,}|(?<![0-9])[0-9]{4}(?:[ -][0-9]{4}){2,4}(?:[ -][0-9]{1,3})?(?![0-9])")


MAX_CHARACTERS = 250_000
"""Of one payload that are searched, which takes about 0.2 s; the longest input of the tasks in the box is of 100,000."""


def redact(value: Any, binary: Collection[str] = ()) -> Any:
    """JSON data with markers such as `[EMAIL]` in the place of what identifies.

    A marker with size and digest stands for what can't be searched: bytes in base64, in the fields that `binary` names (of the
    payload, or of its `input`), and texts beyond the first `MAX_CHARACTERS` of a payload.

    >>> redact({"text": "write to an@example.org, 电话13800138000"})
    {'text': 'write to [EMAIL], 电话[PHONE]'}
    >>> redact({"image": "aGVsbG8="}, binary=["image"])["image"][:31]
    '[BYTES 5 bytes, sha256 2cf24dba'
    """
    return _Redaction(MAX_CHARACTERS).payload(value, frozenset(binary))


class _Redaction:
    """The redaction of one payload. `left` are the characters that may still be searched."""

    def __init__(self, left: int) -> None:
        self._left = left

    def payload(self, value: Any, binary: frozenset[str]) -> Any:
        if not isinstance(value, Mapping) or not binary:
            return self.data(value)
        return {
            self.text(str(key)): _without_bytes(item)
            if key in binary
            else self.payload(item, binary)
            if key == "input"
            else self.data(item)
            for key, item in value.items()
        }

    def data(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, float) and not value.is_integer():
            return value  # a measure: nobody's number has a fraction, and a score has many digits
        if isinstance(value, int | float):
            marked = redact_text(str(value))
            return value if "[" not in marked else marked
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.data(item) for key, item in value.items()}
        return [self.data(item) for item in value]

    def text(self, text: str) -> str:
        if len(text) > self._left:
            return f"[TEXT {len(text)} characters, sha256 {_sha256(text.encode())}]"
        self._left -= len(text)
        return redact_text(text)


def _without_bytes(value: Any) -> Any:
    """A marker for each text in it: of the bytes that it stands for, or of its own where it is no base64."""
    if isinstance(value, str):
        try:
            data = base64.b64decode(value, validate=True)
        except ValueError:
            data = value.encode()
        return f"[BYTES {len(data)} bytes, sha256 {_sha256(data)}]"
    if isinstance(value, Mapping):
        return {key: _without_bytes(item) for key, item in value.items()}
    return [_without_bytes(item) for item in value] if isinstance(value, list | tuple) else value


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def redact_text(text: str) -> str:
    wide = text.translate(_WIDE) if not text.isascii() else text
    if not _WORTH_A_LOOK.search(wide):
        return text
    for pattern, marker in ((_EMAIL, "[EMAIL]"), (_IPV6, "[IP]"), (_IPV4, "[IP]"), (_RESIDENT, "[ID]"), (_SOCIAL, "[ID]")):
        wide = pattern.sub(marker, wide)
    wide = _CARD.sub(_card, wide)
    wide = _PHONE.sub("[PHONE]", wide)
    return _NUMBER.sub("[NUMBER]", wide)


def _card(match: re.Match[str]) -> str:
    digits = [int(c) for c in match[0] if c.isdigit()]
    doubled = sum(sum(divmod(2 * d, 10)) for d in digits[-2::-2])
    return "[CARD]" if (sum(digits[-1::-2]) + doubled) % 10 == 0 else match[0]
