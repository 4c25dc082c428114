"""What the words of a command line, and the rows of a file, mean as inputs of a model: its input schema says."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import click

from taskloom.core.errors import InvalidInputError
from taskloom.core.types import ModelDescription
from taskloom.sdk.cli.schemas import forms_of, is_base64
from taskloom.sdk.files import file_bytes
from taskloom.sdk.requests import sole_text_field

_FIELD = re.compile(r"(\w+)=(.*)", re.DOTALL)
_STDIN = "-"


class Kind(Enum):
    """How the words for a field are read."""

    TEXT = "text"
    BINARY = "bytes"
    """Base64 in JSON."""
    LIST = "list"
    JSON = "JSON"


@dataclass(frozen=True, slots=True)
class Asked:
    """An input from the command line."""

    told: Any
    """What stood there, files by their names."""
    input: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)
    """Where the fields of bytes were read from."""


@dataclass(frozen=True, slots=True)
class InputForm:
    """The fields that a model takes."""

    model: str
    kinds: Mapping[str, Kind]
    bare: str | None
    """The field that a word without a name means: the text of a model that takes one text, the file of one that takes one
    file."""

    @classmethod
    def of(cls, description: ModelDescription) -> InputForm:
        schema = description.input_schema
        kinds = {name: _kind(field, schema) for name, field in schema.get("properties", {}).items()}
        required = schema.get("required", ())
        binary = required[0] if len(required) == 1 and kinds.get(required[0]) is Kind.BINARY else None
        return cls(description.info.name, kinds, binary or sole_text_field(schema))

    def read_words(self, words: Sequence[str]) -> list[Asked]:
        """The inputs that words stand for: one of FIELD=VALUE words, or one for each bare word. Raises `InvalidInputError`."""
        named = [match for word in words if (match := _FIELD.fullmatch(word)) and match[1] in self.kinds]
        if named and len(named) == len(words):
            return [self._read_fields([(match[1], match[2]) for match in named])]
        if named:
            bare = next(word for word in words if word not in {match[0] for match in named})
            raise click.UsageError(f"{bare!r} is not FIELD=VALUE, as {named[0][1]}=... is; fields: {self._fields()}")
        if self.bare is None:
            example = " ".join(f"{name}=..." for name in self.kinds)
            raise click.UsageError(f"{self.model} takes no bare text; give its fields: {example}")
        if self.kinds.get(self.bare) is not Kind.BINARY:
            return [Asked(word, {self.bare: self._read(self.bare, word)}) for word in words]
        paths = [word.removeprefix("@") for word in words]
        return [Asked(path, {self.bare: _content(path, self.bare)}, {self.bare: Path(path)}) for path in paths]

    def read_row(self, row: Any, folder: Path) -> Any:
        """A row of a file, with the files that it names for fields of bytes (`"image": "@shirt.png"`, relative to `folder`)."""
        if not isinstance(row, Mapping):
            return row
        return {name: self._read_file_of(name, value, folder) for name, value in row.items()}

    def _fields(self) -> str:
        return ", ".join(f"{name} ({kind.value})" for name, kind in self.kinds.items()) or "none"

    def _read_fields(self, pairs: Sequence[tuple[str, str]]) -> Asked:
        told: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for name, word in pairs:
            value = self._read(name, word)
            if name not in values:
                told[name], values[name] = word, value
            elif self.kinds[name] is Kind.LIST:
                told[name], values[name] = f"{told[name]} {word}", [*values[name], *value]
            else:
                raise click.UsageError(f"{name} is given twice; only lists may be: {self._fields()}")
        files = {name: Path(word[1:]) for name, word in pairs if self.kinds[name] is Kind.BINARY and word.startswith("@")}
        return Asked(told, values, files)

    def _read(self, name: str, word: str) -> Any:
        kind = self.kinds[name]
        from_file = word.startswith("@") and not word.startswith("@@")
        if kind is Kind.BINARY:
            return _content(word[1:], name) if from_file else word
        text = _text(word[1:], name) if from_file else word.removeprefix("@") if word.startswith("@@") else word
        if kind is Kind.TEXT:
            return text
        try:
            value = json.loads(text)
        except ValueError as exc:
            if kind is Kind.LIST:
                return [text]
            raise InvalidInputError(
                f"{name}={word!r} is not JSON, and {self.model} asks for {name} as JSON: {exc}", name
            ) from exc
        return [text] if kind is Kind.LIST and not isinstance(value, list) else value

    def _read_file_of(self, name: str, value: Any, folder: Path) -> Any:
        if self.kinds.get(name) is Kind.BINARY and isinstance(value, str) and value.startswith("@"):
            return file_bytes(folder / Path(value[1:]).expanduser(), field=name)
        return value


def _content(path: str, field: str) -> bytes:
    return sys.stdin.buffer.read() if path == _STDIN else file_bytes(path, field=field)


def _text(path: str, field: str) -> str:
    try:
        return _content(path, field).decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidInputError(f"{field}: {path!r} is not UTF-8: {exc}", field=field) from exc


def _kind(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Kind:
    forms = list(forms_of(field, schema))
    if any(is_base64(form) for form in forms):
        return Kind.BINARY
    kinds = {form.get("type") for form in forms}
    return Kind.TEXT if "string" in kinds else Kind.LIST if "array" in kinds else Kind.JSON
