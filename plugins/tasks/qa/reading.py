"""Question answering data: SQuAD's JSON, versions 1.1 and 2.0, and JSONL with one question a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from taskloom.core.errors import DataError
from taskloom.core.task import Example
from taskloom.plugins._shared.datasets import read_rows
from taskloom.plugins._shared.squad import squad_questions
from taskloom.plugins.tasks.qa.schema import GoldAnswer, QaInput, QaTarget

COLUMNS = ("id", "title", "domain", "question", "context", "answers", "is_impossible")


def read_examples(path: Path) -> Iterator[Example[QaInput]]:
    """The questions of a file; the target is a `QaTarget`.

    `.json` is SQuAD's form: `data`, of articles with `paragraphs`, of a `context` and `qas`, each with a `question` and its
    `answers`, of `text` and `answer_start` in code points. `domain` of an article is kept. `.jsonl` has `question`,
    `context` and `answers` in each line, and perhaps `id` and `domain`. A question without answers has none in its context.

    Raises `DataError` for the first row that can't be used; it names the line in JSONL, the question's id or place in JSON.
    """
    if path.suffix == ".json":
        yield from _squad_rows(path)
        return
    if path.suffix != ".jsonl":
        raise DataError(f"{path} has an unknown format; use a file that ends in .json (SQuAD's form) or .jsonl", path=str(path))
    for row in read_rows(path, columns=COLUMNS, required=("question", "context", "answers")):
        try:
            yield _example(row.values, str(row.values["context"]), str(row.values.get("domain", "")), row.path, row.line)
        except _BadRowError as exc:
            raise row.error(str(exc)) from exc


class _BadRowError(Exception):
    """What is wrong with a row; who reads the file adds where it is."""


def _squad_rows(path: Path) -> Iterator[Example[QaInput]]:
    empty = True
    for asked in squad_questions(path):
        empty = False
        try:
            yield _example(asked.raw, asked.context, str(asked.article.get("domain", "")), str(path), 0)
        except _BadRowError as exc:
            raise DataError(f"{path}, {asked.place}: {exc}", path=str(path)) from exc
    if empty:
        raise DataError(f"{path} has no questions", path=str(path))


def _example(values: Mapping[str, Any], context: str, domain: str, path: str, line: int) -> Example[QaInput]:
    try:
        given = QaInput.model_validate({"question": values["question"], "context": context})
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        raise _BadRowError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from exc
    answers = values.get("answers") or []
    if not isinstance(answers, list):
        raise _BadRowError(f"`answers` is {answers!r}; expected a list of objects with `text` and `answer_start`")
    # SQuAD 2 marks what a reader might fall for as `plausible_answers`, and leaves `answers` empty.
    found = () if values.get("is_impossible") else tuple(_answer(answer, context) for answer in answers)
    return Example(
        input=given, target=QaTarget(answers=found, id=str(values.get("id", "")), domain=domain), path=path, line=line
    )


def _answer(raw: Any, context: str) -> GoldAnswer:
    text, start = (raw.get("text"), raw.get("answer_start")) if isinstance(raw, dict) else (None, None)
    if not isinstance(text, str) or not text or type(start) is not int:
        raise _BadRowError(f"an answer is {raw!r}; expected an object with `text` (not empty) and `answer_start` (code points)")
    if start < 0 or context[start : start + len(text)] != text:
        raise _BadRowError(
            f"the answer {text[:60]!r} does not stand at {start} in its context, which has "
            f"{context[max(0, start) : max(0, start) + len(text)][:60]!r} there; offsets are code points from 0"
        )
    return GoldAnswer(text=text, start=start, end=start + len(text))
