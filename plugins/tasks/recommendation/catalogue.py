"""The items that a model can recommend: read from a file, looked up by id and title, filtered by attributes. Imports no ML
library."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from taskloom.core.errors import AlreadyExistsError, ArtifactError, DataError, InvalidInputError, NotFoundError
from taskloom.core.types import Frozen
from taskloom.plugins._shared.datasets import DELIMITERS, Row, read_rows
from taskloom.plugins.tasks.recommendation.schema import CatalogueConfig, Id, Wanted

TITLE_PREFIX = "title_"
Flags = NDArray[np.bool_]


class Item(Frozen):
    """An item. `titles` are its titles in other languages, `attributes` the values of each attribute, both by name."""

    item: Id
    title: str
    titles: Mapping[str, str] = Field(default_factory=dict)
    attributes: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)

    def values(self) -> list[str]:
        """`attribute=value`, as the item tower is told."""
        return [f"{name}={value}" for name, values in self.attributes.items() for value in values]

    def text(self) -> str:
        """What the backbone reads: `Trigun. Action, Comedy. TV`."""
        return ". ".join(part for part in (self.title, self.description()) if part)

    def description(self) -> str:
        """The text without the title."""
        return ". ".join(", ".join(values) for values in self.attributes.values() if values)

    def title_in(self, language: str) -> str:
        return self.titles.get(language) or self.title


class Catalogue:
    """Items by place, id, title and attribute. Immutable: `adding` and `removing` make another."""

    def __init__(self, items: Iterable[Item], config: CatalogueConfig) -> None:
        self.items = tuple(items)
        self.config = config
        self.places: Mapping[str, int] = {item.item: place for place, item in enumerate(self.items)}
        if len(self.places) != len(self.items):
            seen: set[str] = set()
            twice = next(item.item for item in self.items if item.item in seen or seen.add(item.item))  # type: ignore[func-returns-value]
            raise AlreadyExistsError(f"item {twice!r} is there twice; every item needs an id of its own")

    def __len__(self) -> int:
        return len(self.items)

    # -- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, path: Path, config: CatalogueConfig) -> Catalogue:
        """The items of a `.csv`, `.tsv` or `.jsonl` file, without those that `config` leaves out. Raises `DataError` with
        path and line."""
        columns = columns_of(path)
        absent = [name for name in config.attributes if name not in columns]
        if absent:
            raise DataError(f"{path} has no column {absent[0]!r}; it has {', '.join(columns)}", path=str(path))
        items: dict[str, Item] = {}
        for row in read_rows(path, columns=columns, required=("item", "title")):
            item = _item(row, config)
            if item.item in items:
                raise row.error(f"item {item.item!r} is there twice")
            items[item.item] = item
        everything = cls(items.values(), config)
        present = {name: everything.present(name, values) for name, values in config.leave_out.items()}
        dropped = everything.matching_any(present, "leave_out")
        return cls((item for item, out in zip(everything.items, dropped, strict=True) if not out), config)

    def adding(self, items: Sequence[Item]) -> Catalogue:
        """With more items at the end; raises `AlreadyExistsError` for an id that is taken."""
        taken = [item.item for item in items if item.item in self.places]
        if taken:
            raise AlreadyExistsError(
                f"{len(taken)} of {len(items)} items are there already, such as {taken[0]!r}; remove these first, or "
                "leave them out of the file"
            )
        return Catalogue((*self.items, *items), self.config)

    def removing(self, ids: Iterable[str]) -> tuple[Catalogue, NDArray[np.intp]]:
        """Without some items, and the places that those which are left had. Raises `NotFoundError` for an unknown id."""
        gone = set(ids)
        unknown = sorted(gone - self.places.keys())
        if unknown:
            raise NotFoundError(f"{len(unknown)} of {len(gone)} items are not there, such as {unknown[0]!r}; none was removed")
        kept = [place for place, item in enumerate(self.items) if item.item not in gone]
        return Catalogue((self.items[place] for place in kept), self.config), np.array(kept, dtype=np.intp)

    # -- files of an artifact -----------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        lines = (json.dumps(item.model_dump(mode="json"), ensure_ascii=False) for item in self.items)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    @classmethod
    def load(cls, path: Path, config: CatalogueConfig) -> Catalogue:
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
            return cls((Item.model_validate_json(line) for line in lines if line), config)
        except (OSError, ValueError, AlreadyExistsError) as exc:
            raise ArtifactError(f"{path.name} is no list of items: {str(exc).splitlines()[0]}") from exc

    # -- looking things up --------------------------------------------------------------------------------------------

    @cached_property
    def _by_title(self) -> Mapping[str, int]:
        """The first item with a title wins."""
        found: dict[str, int] = {}
        for place, item in enumerate(self.items):
            for title in (item.title, *item.titles.values()):
                found.setdefault(_folded(title), place)
        return found

    def titled(self, text: str) -> int | None:
        """The place of the item that has this title in any language, whatever its letter case."""
        return self._by_title.get(_folded(text))

    @cached_property
    def _by_value(self) -> Mapping[str, Mapping[str, NDArray[np.intp]]]:
        found: dict[str, dict[str, list[int]]] = {name: {} for name in self.config.attributes}
        for place, item in enumerate(self.items):
            for name, values in item.attributes.items():
                for value in values:
                    found[name].setdefault(_folded(value), []).append(place)
        return {name: {v: np.array(places, dtype=np.intp) for v, places in values.items()} for name, values in found.items()}

    def matching(self, wanted: Mapping[str, Wanted], field: str) -> Flags:
        """[items]: which have one of the wanted values of every attribute that is named. Raises `InvalidInputError` for an
        attribute that items don't have and for a value that none has."""
        fits = np.ones(len(self.items), dtype=bool)
        for name, values in wanted.items():
            fits &= self._having(name, (values,) if isinstance(values, str) else values, field)
        return fits

    def matching_any(self, wanted: Mapping[str, Wanted], field: str) -> Flags:
        """[items]: which have one of the wanted values of any attribute that is named."""
        fits = np.zeros(len(self.items), dtype=bool)
        for name, values in wanted.items():
            fits |= self._having(name, (values,) if isinstance(values, str) else values, field)
        return fits

    def present(self, name: str, values: Wanted) -> tuple[str, ...]:
        """Those of the values that some item has."""
        known = self._by_value.get(name, {})
        return tuple(value for value in ((values,) if isinstance(values, str) else values) if _folded(value) in known)

    def _having(self, name: str, values: Iterable[str], field: str) -> Flags:
        known = self._by_value.get(name)
        if known is None:
            names = ", ".join(self.config.attributes) or "none"
            raise InvalidInputError(f"items have no attribute {name!r}; they have: {names}", field=f"{field}.{name}")
        flags = np.zeros(len(self.items), dtype=bool)
        for value in values:
            places = known.get(_folded(value))
            if places is None:
                near = get_close_matches(_folded(value), known, n=1)
                guess = f"; did you mean {near[0]!r}?" if near else ""
                listing = ", ".join(sorted(known)[:30])
                raise InvalidInputError(
                    f"no item has {name} {value!r}{guess} There are {len(known)}: {listing}", field=f"{field}.{name}"
                )
            flags[places] = True
        return flags


def columns_of(path: Path) -> list[str]:
    """The names of a file's fields. Raises `DataError` if it can't be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            if path.suffix in DELIMITERS:
                return [name.strip() for name in next(csv.reader(stream, delimiter=DELIMITERS[path.suffix]), [])]
            names: dict[str, None] = {}
            for line in stream:
                row = json.loads(line) if line.strip() else {}
                names.update(dict.fromkeys(row if isinstance(row, dict) else ()))
            return list(names)
    except OSError as exc:
        raise DataError(f"items file {path} can't be read: {exc.strerror}", path=str(path)) from exc
    except ValueError as exc:
        raise DataError(f"{path} can't be read: {exc}", path=str(path)) from exc


def _item(row: Row, config: CatalogueConfig) -> Item:
    titles = {
        name.removeprefix(TITLE_PREFIX): value for name, value in row.values.items() if name.startswith(TITLE_PREFIX) and value
    }
    attributes = {name: _values(row.values.get(name), config.separator) for name in config.attributes}
    try:
        return Item(item=row.values["item"], title=row.values["title"], titles=titles, attributes=attributes)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        raise row.error(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from exc


def _values(raw: Any, separator: str) -> Any:
    """The values of one attribute: parts of a string, or a list as it is."""
    if raw is None:
        return ()
    if isinstance(raw, str):
        return tuple(dict.fromkeys(part.strip() for part in raw.split(separator) if part.strip()))
    return tuple(raw) if isinstance(raw, list) else raw


QUOTES = " \t\u3000\"'“”‘’《》〈〉「」『』"
"""Written around titles, and no part of them."""


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip(QUOTES)
