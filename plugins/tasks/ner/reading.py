"""Annotated texts from files: JSON lines with entities or tags, and CoNLL columns.

An example's target is a tuple of `Annotation`s: `(start, end, label)`, in code points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from taskloom.core.errors import DataError, UnsupportedError
from taskloom.core.task import Example
from taskloom.plugins._shared.datasets import Row, bad_row, read_rows
from taskloom.plugins.tasks.ner.schema import NerInput
from taskloom.plugins.tasks.ner.tags import SAME_AS, read_leniently
from taskloom.plugins.tasks.ner.words import unspaced

Annotation = tuple[int, int, str]

COLUMNS = ("text", "entities", "tokens", "tags")
PASSED_OVER = ("id", "doc", "sent", "section", "genre", "licence", "source")
"""Fields that data sets carry along; nothing here reads them."""
CONLL = (".conll", ".bio", ".iob")


def read_examples(path: Path) -> Iterator[Example[NerInput]]:
    """Rows of a `.jsonl` file, with `text` and `entities` (objects with `start`, `end` and `label`) or with `tokens` and
    `tags` (BIO, BIOES or their kin), or sentences of a `.conll`, `.bio` or `.iob` file. Tokens stand in the `text` of the row
    if it has one, else they are put together (`_put_together`). Raises `DataError` with the path and line of the first bad
    row."""
    if path.suffix in CONLL:
        yield from _conll_examples(path)
        return
    if path.suffix != ".jsonl":
        kinds = ", ".join((".jsonl", *CONLL))
        raise DataError(f"{path} has an unknown format; use a file that ends in one of {kinds}", path=str(path))
    for row in read_rows(path, columns=(*COLUMNS, *PASSED_OVER)):
        if "entities" in row.values:
            yield _from_entities(row)
        elif "tokens" in row.values:
            yield _from_tags(row)
        else:
            raise row.error("has no `entities`; a row has `text` and `entities`, or `tokens` and `tags`")


def _from_entities(row: Row) -> Example[NerInput]:
    value = _input(row, row.values.get("text"))
    entities = row.values["entities"]
    if not isinstance(entities, list):
        raise row.error(f"`entities` is {type(entities).__name__}; expected a list of objects with start, end and label")
    found = {_annotation(row, value.text, entity) for entity in entities}
    return Example(input=value, target=tuple(sorted(found)), path=row.path, line=row.line)


def _annotation(row: Row, text: str, entity: Any) -> Annotation:
    if not isinstance(entity, dict):
        raise row.error(f"an entity is {entity!r}; expected an object with start, end and label")
    start, end, label = entity.get("start"), entity.get("end"), entity.get("label")
    if not (type(start) is int and type(end) is int and isinstance(label, str) and label):
        raise row.error(f"entity {entity!r} needs `start` and `end` (code points) and `label`")
    if start >= end:
        raise row.error(f"entity {start} to {end} has no characters; `end` is the place behind its last one")
    if not 0 <= start < end <= len(text):
        raise row.error(f"entity {start} to {end} lies outside the text, which has {len(text)} characters")
    covered = entity.get("text", text[start:end])
    if covered != text[start:end]:
        raise row.error(f"entity {start} to {end} is said to be {covered!r}, but the text has {text[start:end]!r} there")
    return start, end, label


def _from_tags(row: Row) -> Example[NerInput]:
    return _joined(row, _words(row, "tokens"), _words(row, "tags"), row.values.get("text"))


def _words(row: Row, name: str) -> list[str]:
    value = row.values.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise row.error(f"`{name}` must be a list of strings that are not empty")
    return value


def _joined(row: Row, tokens: Sequence[str], tags: Sequence[str], given: Any = None) -> Example[NerInput]:
    """The example of tokens and their tags; `given` is the text that the row says they make."""
    if len(tokens) != len(tags):
        raise row.error(f"{len(tokens)} tokens but {len(tags)} tags")
    text, places = _put_together(tokens) if given is None else (given, _found_in(given, tokens))
    if places is None:
        raise row.error(
            "`text` is not its tokens with nothing but blanks between them; leave `text` out, or give `entities` with their "
            "places in it"
        )
    try:
        spans = read_leniently(tags)
    except UnsupportedError as exc:
        raise row.error(str(exc)) from exc
    target = tuple((places[span.start][0], places[span.end - 1][1], span.label) for span in spans)
    return Example(input=_input(row, text), target=target, path=row.path, line=row.line)


def _put_together(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """A text of tokens, and where they are in it. There is a blank between two of them, but where both are in a script
    without blanks. Where each token is a character of a text in such a script, there is none at all."""
    characters = all(len(token) == 1 for token in tokens) and any(unspaced(token) for token in tokens)
    pieces, places, at = [], [], 0
    for token, before in zip(tokens, ["", *tokens], strict=False):
        blank = "" if characters or not before or (_tight(before[-1]) and _tight(token[0])) else " "
        pieces += [blank, token]
        places.append((at + len(blank), at + len(blank) + len(token)))
        at = places[-1][1]
    return "".join(pieces), places


def _tight(character: str) -> bool:
    return unspaced(character) or "\u3000" <= character <= "\u303f" or "\uff01" <= character <= "\uff65"


def _found_in(text: Any, tokens: Sequence[str]) -> list[tuple[int, int]] | None:
    """Where the tokens are in a text that has nothing else but blanks; None if it isn't so."""
    places: list[tuple[int, int]] = []
    at = 0
    for token in tokens if isinstance(text, str) else ():
        while at < len(text) and text[at].isspace() and not text.startswith(token, at):
            at += 1
        if not text.startswith(token, at):
            return None
        places.append((at, at + len(token)))
        at += len(token)
    return places if isinstance(text, str) and not text[at:].strip() else None


def _input(row: Row, text: Any) -> NerInput:
    try:
        return NerInput.model_validate({"text": text})
    except ValidationError as exc:
        raise row.error(f"`text`: {exc.errors(include_url=False)[0]['msg']}") from exc


def _conll_examples(path: Path) -> Iterator[Example[NerInput]]:
    """Sentences of lines whose first column is a token and whose last is its tag, parted by blank lines. Comments and
    `-DOCSTART-` lines are passed over."""
    if not path.is_file():
        raise DataError(f"there is no data file {path}", path=str(path))
    tokens: list[str] = []
    tags: list[str] = []
    began, sentences = 0, 0
    for number, line in enumerate([*_utf8_lines(path), ""], start=1):
        columns = line.split("\t") if "\t" in line else line.split()
        if any(column.strip() for column in columns):
            if columns[0] == "-DOCSTART-" or (line.startswith("#") and not _is_tag(columns)):
                continue
            if not _is_tag(columns):
                raise bad_row(str(path), number, f"expected a token and its tag, such as 'Berlin B-LOC'; found {line!r}")
            began = began or number
            tokens.append(columns[0].strip())
            tags.append(columns[-1].strip())
        elif tokens:
            sentences += 1
            yield _joined(Row({}, str(path), began), tokens, tags)
            tokens, tags, began = [], [], 0
    if not sentences:
        raise DataError(f"{path} has no rows", path=str(path))


def _is_tag(columns: Sequence[str]) -> bool:
    tag = columns[-1].strip()
    return len(columns) > 1 and bool(columns[0].strip()) and (tag == "O" or (tag[:1] in SAME_AS and tag[1:2] in {"-", "_"}))


def _utf8_lines(path: Path) -> list[str]:
    lines = []
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            lines.append(raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r"))
        except UnicodeDecodeError as exc:
            raise bad_row(str(path), number, f"byte {exc.start + 1} is not UTF-8; save the file as UTF-8") from exc
    return lines
