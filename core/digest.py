"""The one byte string for a JSON value, which digests and signatures are made over."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no blanks, UTF-8, no NaN: equal values give equal bytes, in any process.

    >>> canonical_json({"b": 1, "a": "中"}).decode()
    '{"a":"中","b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
