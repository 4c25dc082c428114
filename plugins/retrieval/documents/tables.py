"""Documents from the rows of CSV, TSV and JSONL files: one a row, FAQ pairs among them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from taskloom.core.knowledge import Document, Refused, Scalar
from taskloom.plugins.retrieval.documents.cleaning import clean, clean_line

COLUMNS = ("id", "title", "text", "question", "answer", "language", "source")
CHINESE_COLUMNS = {
    "编号": "id",
    "标题": "title",
    "正文": "text",
    "内容": "text",
    "问题": "question",
    "答案": "answer",
    "回答": "answer",
    "语言": "language",
    "来源": "source",
}
DEEPEST = 8
"""Objects inside objects whose fields become metadata."""
MOST_METADATA = 200
LONGEST_FIELD = 1 << 28
"""Characters; the file has a limit of its own."""
LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_].*)?")


class BadRow(Exception):
    """A row that is no document. Its message is the reason, for people."""


def documents_of_table(text: str, ending: str, name: str) -> Iterator[Document | Refused]:
    """The documents of a table's text. `ending` is `csv`, `tsv` or `jsonl`; `name` is the file's, which rows without an id of
    their own are named after: `name#1` is the first."""
    rows = _json_rows(text) if ending == "jsonl" else _table_rows(text, ending)
    for number, row in rows:
        own = f"{name}#{number}"
        try:
            if isinstance(row, str):
                raise BadRow(row)
            yield _document(row, own, name)
        except BadRow as exc:
            yield Refused(document_id=own, reason=str(exc))


def _document(row: Mapping[str, Any], own_id: str, name: str) -> Document:
    fields: dict[str, str] = {}
    metadata: dict[str, Scalar | tuple[Scalar, ...]] = {}
    for key, value in row.items():
        column = CHINESE_COLUMNS.get(key.strip(), key.strip().lower())
        if column not in COLUMNS:
            _add_metadata(metadata, clean_line(key), value, 0)
        elif value is not None:
            if isinstance(value, dict | list):
                raise BadRow(f"{column} is {type(value).__name__}, not text")
            if not str(value).strip():
                continue
            if column in fields:
                raise BadRow(f"two columns say what its {column} is, {key.strip()!r} and one before it; keep one of them")
            fields[column] = str(value)
    text = "\n\n".join(part for part in (clean(fields.get("answer", "")), clean(fields.get("text", ""))) if part)
    if not text:
        wanted = "an answer" if clean_line(fields.get("question", "")) else "a text, or a question and an answer"
        raise BadRow(f"the row has nothing to answer from; it needs {wanted}. It has: {', '.join(map(str, row)) or 'nothing'}")
    document_id = clean_line(fields.get("id", "")) or own_id
    if len(document_id) > 512:
        raise BadRow(f"its id has {len(document_id)} characters; 512 are the most")
    return Document(
        document_id=document_id,
        text=text,
        title=clean_line(fields.get("title", "")),
        question=clean_line(fields.get("question", "")),
        language=language_code(fields.get("language", "")),
        source=clean_line(fields.get("source", "")) or name,
        metadata=metadata,
    )


def language_code(told: str) -> str:
    """The ISO 639-1 code of a language tag; empty for what is none, so that the text will tell.

    >>> language_code("zh-CN"), language_code("EN"), language_code("Chinese")
    ('zh', 'en', '')
    """
    told = told.strip()
    return re.split("[-_]", told)[0].lower() if LANGUAGE.fullmatch(told) else ""


def _add_metadata(metadata: dict[str, Scalar | tuple[Scalar, ...]], key: str, value: Any, depth: int) -> None:
    """One field more; the fields of an object are named with a dot, null and the empty are left out."""
    if value is None or value == "" or key == "":
        return
    if isinstance(value, dict):
        if depth >= DEEPEST:
            raise BadRow(f"{key} is nested more than {DEEPEST} deep")
        for inner, content in value.items():
            _add_metadata(metadata, f"{key}.{clean_line(inner)}", content, depth + 1)
        return
    if isinstance(value, list):
        several = tuple(_scalar(key, item) for item in value if item is not None)
        if several:
            metadata[key] = several
    else:
        metadata[key] = _scalar(key, value)
    if len(metadata) > MOST_METADATA:
        raise BadRow(f"it has more than {MOST_METADATA} fields besides {', '.join(COLUMNS)}")


def _scalar(key: str, value: Any) -> Scalar:
    if isinstance(value, float) and not isfinite(value):
        raise BadRow(f"{key} is {value}, which is no number that can be kept")
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bool | int | float):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _json_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    number = 0
    for line in text.split("\n"):
        if not line.strip():
            continue
        number += 1
        try:
            row = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as exc:
            yield number, f"not JSON ({str(exc)[:100]}); expected one object a line"
            continue
        yield number, row if isinstance(row, dict) else f"expected a JSON object, found {type(row).__name__}"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _table_rows(text: str, ending: str) -> list[tuple[int, Mapping[str, Any] | str]]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))  # one for the whole process, and 131 072 without this
    found: list[tuple[int, Mapping[str, Any] | str]] = []
    header: list[str] = []
    reader = csv.reader((line + "\n" for line in text.split("\n")), delimiter=_delimiter(text, ending), strict=True)
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if header:
                found.append((len(found) + 1, _row(header, fields)))
            else:
                header = [field.strip() for field in fields]
    except csv.Error as exc:
        found.append((len(found) + 1, f"not valid {ending.upper()} ({exc}); what follows in the file was not read"))
    return found


def _row(header: list[str], fields: list[str]) -> Mapping[str, Any] | str:
    if len(fields) != len(header):
        return f"{len(fields)} fields where the first line names {len(header)}: {', '.join(header)[:200]}"
    if len(set(header)) < len(header):
        return f"the first line names a column twice: {', '.join(header)[:200]}"
    return dict(zip(header, fields, strict=True))


def _delimiter(text: str, ending: str) -> str:
    """A tab for TSV; else what the first line has most of: a comma, a semicolon (spreadsheets in much of Europe), a tab."""
    first = text.lstrip("\n").split("\n", 1)[0]
    return "\t" if ending == "tsv" else max(",;\t", key=first.count)
