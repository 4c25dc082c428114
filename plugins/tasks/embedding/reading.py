"""Embedding data: queries with passages that answer them, as JSONL, CSV and TSV, and SQuAD's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from taskloom.core.errors import DataError
from taskloom.core.task import Example
from taskloom.plugins._shared.datasets import LIST_SEPARATOR, Row, bad_row, read_rows
from taskloom.plugins._shared.squad import squad_questions
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput, EmbeddingTarget

COLUMNS = ("query", "positive", "negatives", "domain")


@dataclass(frozen=True)
class _Pair:
    """A query and a passage that is right for it, and where they stand. `place` names it in messages."""

    query: str
    positive: str
    negatives: tuple[str, ...]
    domain: str
    path: str
    line: int
    place: str

    def error(self, problem: str) -> DataError:
        if self.line:
            return bad_row(self.path, self.line, problem)
        return DataError(f"{self.path}, {self.place}: {problem}", path=self.path)


def read_examples(path: Path) -> Iterator[Example[EmbeddingInput]]:
    """The rows of a file; the target is an `EmbeddingTarget`.

    `.jsonl`, `.csv` and `.tsv` have `query`, `positive` (a passage that is right for it) and perhaps `negatives` (passages that
    look right and are not: a list in JSONL, separated by `|` in CSV and TSV) and `domain`. A query with several right passages
    has a row for each. `.json` is SQuAD's form: each question is a query, and its paragraph the passage; questions without an
    answer are passed over.

    The whole file is read before the first row is given, so that each row knows all passages of its query. Raises `DataError`
    for the first row that can't be used; it names the line, or in JSON the question's id or place.
    """
    pairs = list(_squad_pairs(path) if path.suffix == ".json" else _table_pairs(path))
    right: dict[str, dict[str, None]] = {}
    for pair in pairs:
        right.setdefault(pair.query, {})[pair.positive] = None
    for pair in pairs:
        yield _example(pair, right[pair.query])


def _example(pair: _Pair, right: Mapping[str, None]) -> Example[EmbeddingInput]:
    false = [text for text in pair.negatives if text in right]
    if false:
        raise pair.error(f"`negatives` has a passage that is `positive` for the same query: {false[0][:60]!r}")
    try:
        target = EmbeddingTarget(
            positives=tuple(dict.fromkeys((pair.positive, *right))),
            negatives=tuple(dict.fromkeys(pair.negatives)),
            domain=pair.domain,
        )
        value = EmbeddingInput(text=pair.query, kind="query")
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        raise pair.error(f"{_FIELDS.get(str(first['loc'][0]), first['loc'][0])}: {first['msg']}") from exc
    return Example(input=value, target=target, path=pair.path, line=pair.line)


_FIELDS = {"text": "query", "positives": "positive"}
"""What the fields of inputs and targets are called in files."""


def _table_pairs(path: Path) -> Iterator[_Pair]:
    for row in read_rows(path, columns=COLUMNS, required=("query", "positive")):
        for name in ("query", "positive", "domain"):
            if not isinstance(row.values.get(name, ""), str):
                raise row.error(f"`{name}` is {row.values[name]!r}; expected a string")
        yield _Pair(
            query=row.values["query"],
            positive=row.values["positive"],
            negatives=_negatives(row),
            domain=row.values.get("domain", ""),
            path=row.path,
            line=row.line,
            place="",
        )


def _negatives(row: Row) -> tuple[str, ...]:
    told = row.values.get("negatives")
    if told is None:
        return ()
    if isinstance(told, str) and not row.path.endswith(".jsonl"):
        told = [part.strip() for part in told.split(LIST_SEPARATOR)]
    if not isinstance(told, list) or not all(isinstance(text, str) and text.strip() for text in told):
        raise row.error(f"`negatives` is {told!r}; expected a list of non-empty strings")
    return tuple(told)


def _squad_pairs(path: Path) -> Iterator[_Pair]:
    found = False
    for asked in squad_questions(path):
        if asked.raw.get("is_impossible"):
            continue
        found = True
        yield _Pair(
            query=asked.question,
            positive=asked.context,
            negatives=(),
            domain=str(asked.article.get("domain", "")),
            path=str(path),
            line=0,
            place=asked.place,
        )
    if not found:
        raise DataError(f"{path} has no questions with an answer", path=str(path))
