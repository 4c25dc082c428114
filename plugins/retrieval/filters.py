"""Filters by metadata: which documents have what `where` asks for."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.core.errors import InvalidInputError
from taskloom.core.knowledge import Metadata, Where

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

Condition = tuple[str, tuple[str, ...]]
"""A key, and the encoded values of which one must be there."""


def encoded(value: object, field: str) -> str:
    """A value as text, equal for values that are equal: 1 and 1.0 are, 1 and "1" and true are not."""
    if isinstance(value, str | bool):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    raise InvalidInputError(
        f"{value!r} is no value of metadata; use text, true or false, a finite number, or a list of these", field=field
    )


def _values(value: object, field: str) -> tuple[str, ...]:
    several = tuple(value) if isinstance(value, tuple | list | set | frozenset) else (value,)
    return tuple(sorted({encoded(one, field) for one in several}))


def facts_of(metadata: Metadata) -> Iterator[tuple[str, str]]:
    """Each key with each of its values."""
    for name, value in metadata.items():
        for one in _values(value, f"metadata.{name}"):
            yield name, one


def conditions_of(where: Where | None) -> tuple[Condition, ...]:
    """A filter in one form, whatever order it was written in. Raises `InvalidInputError` where it makes no sense."""
    conditions = []
    for name, value in (where or {}).items():
        if not isinstance(name, str) or not name:
            raise InvalidInputError(f"a filter's key is a name of the metadata, not {name!r}", field="where")
        values = _values(value, f"where.{name}")
        if not values:
            raise InvalidInputError(f"the filter on {name!r} has no value: nothing could match it", field=f"where.{name}")
        conditions.append((name, values))
    return tuple(sorted(conditions))


MOST_COLUMNS = 64
"""Keys whose facts are kept in memory."""


class FactColumns:
    """Which documents have which value, a column for each key that was filtered by, of the last ones that were read. Documents
    never change, so a column is only read on from where it ended; the database is asked for what is new. A key that no
    document has leaves nothing behind: anybody may ask for any."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._columns: dict[str, tuple[int, dict[str, Ints]]] = {}
        self._keeping = threading.Lock()

    def matching(self, conditions: tuple[Condition, ...], newest: int) -> Ints:
        """The document rows, ascending, that meet every condition, among those up to row `newest`."""
        found: Ints | None = None
        for name, values in conditions:
            column = self._column(name, newest)
            parts = [column[value] for value in values if value in column]
            rows = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)
            found = rows if found is None else np.intersect1d(found, rows, assume_unique=True)
        return found if found is not None else np.empty(0, np.int64)

    def _column(self, name: str, newest: int) -> dict[str, Ints]:
        read_to, column = self._columns.get(name, (0, {}))
        if read_to < newest:
            fresh: dict[str, list[int]] = {}
            for value, document in self._store.facts(name, read_to, newest):
                fresh.setdefault(value, []).append(document)
            nothing = np.empty(0, np.int64)
            column = {**column, **{value: np.concatenate([column.get(value, nothing), rows]) for value, rows in fresh.items()}}
            if column:
                self._keep(name, newest, column)
        return column

    def _keep(self, name: str, newest: int, column: dict[str, Ints]) -> None:
        """Two readers may both have read it: each puts in a whole column."""
        with self._keeping:
            self._columns.pop(name, None)
            self._columns[name] = (newest, column)
            while len(self._columns) > MOST_COLUMNS:
                del self._columns[next(iter(self._columns))]
