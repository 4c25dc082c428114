"""Relation data: JSONL with a text, the places of two entities in it, and their relation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from taskloom.core.errors import DataError
from taskloom.core.task import Example
from taskloom.plugins._shared.datasets import Row, read_rows
from taskloom.plugins.tasks.relation.schema import RelationInput

COLUMNS = ("text", "head", "tail", "relation")


def read_examples(path: Path) -> Iterator[Example[RelationInput]]:
    """Rows with `text`, `head` and `tail` (each `start` and `end` in code points and, to be checked against the text, perhaps
    `text`) and `relation`, which is the target. Raises `DataError` with the line of the first bad row."""
    if path.suffix != ".jsonl":
        raise DataError(f"{path} has an unknown format; use a file that ends in .jsonl, one object a line", path=str(path))
    for row in read_rows(path, columns=COLUMNS, required=COLUMNS):
        relation = row.values["relation"]
        if not isinstance(relation, str) or not relation.strip():
            raise row.error(f"`relation` is {relation!r}; expected a non-empty string")
        raw = {name: row.values[name] for name in ("text", "head", "tail")}
        said = {name: _said(row, name) for name in ("head", "tail")}
        try:
            given = RelationInput.model_validate({**raw, **{name: span for name, (span, _) in said.items()}})
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            raise row.error(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from exc
        for name, (_, text) in said.items():
            span = getattr(given, name)
            there = given.text[span.start : span.end]
            if text is not None and text != there:
                raise row.error(
                    f"{name}: {text!r} does not stand at {span.start} to {span.end}, which is {there!r}; count code points"
                )
        yield Example(input=given, target=relation, path=row.path, line=row.line)


def _said(row: Row, name: str) -> tuple[Any, Any]:
    """An entity's place, and the text that the row says is there, None if it says nothing."""
    value = row.values[name]
    if not isinstance(value, Mapping):
        raise row.error(f"`{name}` is {value!r}; expected an object with `start` and `end`")
    return {key: part for key, part in value.items() if key != "text"}, value.get("text")
