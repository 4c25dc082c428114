"""Takes what identifies people out of payloads: the policy `redacted`.

It finds what has a form of its own (addresses, numbers); it does not find names. Digits in full-width form, as in Chinese
text, are found too and are written as ASCII digits where they stay.
"""

from __future__ import annotations

import re
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
_NUMBER = re.compile(r"[0-9]{7,}")


def redact(value: Any) -> Any:
    """JSON data with markers such as `[EMAIL]` in the place of what identifies.

    >>> redact({"text": "write to an@example.org, 电话13800138000"})
    {'text': 'write to [EMAIL], 电话[PHONE]'}
    """
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        marked = redact_text(str(value))
        return value if "[" not in marked else marked
    if isinstance(value, dict):
        return {redact_text(str(key)): redact(item) for key, item in value.items()}
    return [redact(item) for item in value]


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
