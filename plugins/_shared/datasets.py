"""Training and evaluation files: reading them row by row, holding rows out, and saying which data it was."""

from __future__ import annotations

import csv
import json
import random
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from math import floor
from pathlib import Path
from typing import Any, TypeVar, overload

from taskloom.core.artifact import DataInfo, file_digest, file_label
from taskloom.core.digest import sha256_hex
from taskloom.core.errors import DataError
from taskloom.core.task import Example

T = TypeVar("T")

DELIMITERS = {".csv": ",", ".tsv": "\t"}
FIELD_CHARACTERS = 1 << 24
"""Of a field in CSV. Python's own limit is less than what tasks take."""
QUOTED = re.compile(r'"(?:[^"]|"")*"')
FORMATS = ("jsonl", "csv", "tsv")
LIST_SEPARATOR = "|"
"""Between the values of one field, in formats that have no lists."""


@dataclass(frozen=True)
class Row:
    """One row as it was read: strings from CSV and TSV (an empty field is left out), JSON values from JSONL."""

    values: Mapping[str, Any]
    path: str
    line: int

    def error(self, problem: str) -> DataError:
        return bad_row(self.path, self.line, problem)


def bad_row(path: str, line: int, problem: str) -> DataError:
    return DataError(f"{path}, line {line}: {problem}", path=path, line=line)


def read_rows(path: Path, *, columns: Sequence[str], required: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a `.jsonl`, `.csv` or `.tsv` file in UTF-8, with or without a byte-order mark; blank lines are passed over.
    In TSV a line is a row; quotes around a whole field, doubled inside, are taken off, and any others are characters as any.

    `columns` are the names that a row may have, `required` those that it must have. Raises `DataError` with the path, the
    line and what was expected for a file that can't be read and for the first bad row.
    """
    if not path.is_file():
        raise DataError(f"there is no data file {path}", path=str(path))
    if path.suffix == ".jsonl":
        rows = _json_rows(path)
    elif path.suffix in DELIMITERS:
        rows = _table_rows(path, _csv_fields(path) if path.suffix == ".csv" else _tsv_fields(path), columns, required)
    else:
        raise DataError(f"{path} has an unknown format; use a file that ends in .jsonl, .csv or .tsv", path=str(path))
    empty = True
    for row in rows:
        empty = False
        unknown = [name for name in row.values if name not in columns]
        if unknown:
            raise row.error(f"unknown field {unknown[0]!r}; a row has the fields {', '.join(columns)}")
        absent = [name for name in required if row.values.get(name) is None]
        if absent:
            raise row.error(f"field {absent[0]!r} is missing or empty")
        yield row
    if empty:
        raise DataError(f"{path} has no rows", path=str(path))


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as exc:
                raise bad_row(str(path), number, f"byte {exc.start + 1} is not UTF-8; save the file as UTF-8") from exc


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as exc:
            told = f"{exc.msg} at column {exc.colno}" if isinstance(exc, json.JSONDecodeError) else str(exc)
            raise bad_row(str(path), number, f"not JSON ({told}); expected one object a line") from exc
        if not isinstance(values, dict):
            raise bad_row(str(path), number, f"expected a JSON object, found {type(values).__name__}")
        yield Row(values, str(path), number)


def _csv_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row, and the line that it begins in (RFC 4180)."""
    csv.field_size_limit(max(csv.field_size_limit(), FIELD_CHARACTERS))  # one for the whole process
    reader = csv.reader(_lines(path), strict=True)
    started = 1
    try:
        for fields in reader:
            yield started, fields
            started = reader.line_num + 1
    except csv.Error as exc:
        open_quote = "; a quote at the beginning of a field is not closed" if "end of data" in str(exc) else ""
        raise bad_row(str(path), started, f"not valid CSV: {exc}{open_quote}") from exc


def _tsv_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """As `_csv_fields`. Whoever writes TSV often writes no quotes, and texts begin with some."""
    for number, line in enumerate(_lines(path), start=1):
        whole = line.rstrip("\r\n")
        fields = whole.split("\t") if whole else []
        yield number, [field[1:-1].replace('""', '"') if QUOTED.fullmatch(field) else field for field in fields]


def _table_rows(
    path: Path, rows: Iterator[tuple[int, list[str]]], columns: Sequence[str], required: Sequence[str]
) -> Iterator[Row]:
    header: list[str] | None = None
    for line, fields in rows:
        if not fields:
            continue
        if header is None:
            header = [name.strip() for name in fields]
            _check_header(header, path, line, columns, required)
            continue
        if len(fields) != len(header):
            raise bad_row(str(path), line, f"{len(fields)} fields where the header has {len(header)}: {', '.join(header)}")
        yield Row({name: value for name, value in zip(header, fields, strict=True) if value != ""}, str(path), line)


def _check_header(header: list[str], path: Path, line: int, columns: Sequence[str], required: Sequence[str]) -> None:
    expected = f"the first line names the columns, from: {', '.join(columns)}"
    for name in header:
        if name not in columns:
            raise bad_row(str(path), line, f"unknown column {name!r}; {expected}")
        if header.count(name) > 1:
            raise bad_row(str(path), line, f"column {name!r} is there twice; {expected}")
    for name in required:
        if name not in header:
            raise bad_row(str(path), line, f"column {name!r} is missing; {expected}")


def stratified_split(items: Sequence[T], key: Callable[[T], str], fraction: float, seed: int) -> tuple[list[T], list[T]]:
    """Splits off about `fraction` of the items, the same share of each stratum: `(kept, held out)`, both in the given order.

    The same items, fraction and seed give the same split. Places that rounding leaves over go to the strata that are owed
    most (largest remainder); no stratum is held out whole, so a class with one row stays in the part that is trained on.
    """
    strata: dict[str, list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        strata[key(item)].append(i)
    take = {name: min(floor(len(rows) * fraction), len(rows) - 1) for name, rows in strata.items()}
    owed = sorted(strata, key=lambda name: (take[name] - len(strata[name]) * fraction, name))
    left = round(len(items) * fraction) - sum(take.values())
    for name in owed:
        if left > 0 and take[name] < len(strata[name]) - 1:
            take[name] += 1
            left -= 1
    held: set[int] = set()
    for name, rows in strata.items():
        held.update(random.Random(f"{seed}:{name}").sample(rows, take[name]))
    return [x for i, x in enumerate(items) if i not in held], [items[i] for i in sorted(held)]


class JoinedRows(Sequence[T]):
    """Sequences one after the other, none of them copied."""

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends = list(accumulate(len(part) for part in self._parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        part = bisect_right(self._ends, place)
        return self._parts[part][place - (self._ends[part] - len(self._parts[part]))]

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self._parts)


class ChosenRows(Sequence[T]):
    """Some of the rows of a sequence, by number, none of them copied."""

    def __init__(self, rows: Sequence[T], numbers: Sequence[int]) -> None:
        self._rows, self._numbers = rows, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._rows[number] for number in self._numbers[index]]
        return self._rows[self._numbers[index]]


def joined_rows(parts: Sequence[Sequence[T]]) -> Sequence[T]:
    """The rows of all parts: one list if they are lists, else without copying them."""
    if all(isinstance(part, list) for part in parts):
        return [row for part in parts for row in part]
    return parts[0] if len(parts) == 1 else JoinedRows(parts)


def rows_digest(rows: Sequence[Example[Any]]) -> str:
    """SHA-256 over the inputs and targets of rows, in their order."""
    return sha256_hex(
        "".join(sha256_hex(repr((row.input, row.target)).encode("utf-8", "surrogatepass")) for row in rows).encode()
    )


def describe_data(paths: Path | Sequence[Path], rows: int, *, licence: str = "", source: str = "") -> DataInfo:
    """What the manifest keeps of a data file: its SHA-256 identifies it wherever it lies. Several files that were read as
    one are named with their folders, and identified by the SHA-256 of their digests, in order."""
    files = [paths] if isinstance(paths, Path) else list(paths)
    digests = [file_digest(path).sha256 for path in files]
    if len(files) == 1:
        return DataInfo(name=files[0].name, sha256=digests[0], rows=rows, licence=licence, source=source)
    name = ", ".join(file_label(str(path)) for path in files)
    return DataInfo(name=name, sha256=sha256_hex("\n".join(digests).encode()), rows=rows, licence=licence, source=source)
