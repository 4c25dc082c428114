"""Files whose content becomes part of an input."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from taskloom.core.errors import InvalidInputError


def file_bytes(path: str | PathLike[str], *, field: str) -> bytes:
    """The content of a file; raises `InvalidInputError` saying why there is none."""
    if str(path).startswith(("http://", "https://", "data:")):
        raise InvalidInputError(f"{field} is a URL, {str(path)[:60]!r}; fetch it yourself and give its bytes", field=field)
    try:
        return Path(path).expanduser().read_bytes()
    except FileNotFoundError as exc:
        raise InvalidInputError(f"{field}: there is no file {str(path)!r} (looked in {Path.cwd()})", field=field) from exc
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise InvalidInputError(f"{field}: {str(path)[:200]!r} can't be read: {reason}", field=field) from exc
