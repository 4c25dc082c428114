"""Outputs of any task as short lines of text: a list of objects is one line each, anything else `name: value`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def output_lines(output: Mapping[str, Any]) -> list[str]:
    """
    >>> output_lines({"labels": [{"score": 0.98321, "label": "lost_card"}], "truncated": False})
    ['lost_card 0.983']
    """
    lines: list[str] = []
    for name, value in output.items():
        if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            lines.extend(" ".join(_short(part) for part in _words_first(item.values())) for item in value)
        elif value not in (None, False, [], ()):
            lines.append(f"{name}: {_short(value)}")
    return lines


def _words_first(values: Iterable[Any]) -> list[Any]:
    """JSON objects that crossed the wire come in any order."""
    return sorted(values, key=lambda value: isinstance(value, float))


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
