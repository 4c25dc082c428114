"""Files in SQuAD's form: `data`, of articles with `paragraphs`, of a `context` and `qas`, each with a `question`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.core.errors import DataError


@dataclass(frozen=True)
class SquadQuestion:
    """A question as it stands in the file, and what it stands in. `place` names it in messages."""

    article: Mapping[str, Any]
    context: str
    raw: Mapping[str, Any]
    place: str

    @property
    def question(self) -> str:
        return str(self.raw["question"])


def squad_questions(path: Path) -> Iterator[SquadQuestion]:
    """Every question of a file. Raises `DataError` for one that can't be read or is of another form."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise DataError(f"there is no data file {path}: {exc.strerror}", path=str(path)) from exc
    except ValueError as exc:
        raise DataError(f"{path} is not JSON: {exc}", path=str(path)) from exc
    number = 0
    try:
        for article in whole["data"]:
            for paragraph in article["paragraphs"]:
                for raw in paragraph["qas"]:
                    number += 1
                    place = f"question {raw.get('id') or f'number {number}'}"
                    for name, text in (("question", raw["question"]), ("context", paragraph["context"])):
                        if not isinstance(text, str):
                            raise DataError(f"{path}, {place}: `{name}` is {text!r}; expected a string", path=str(path))
                    article.get("domain")  # what is no object fails here
                    yield SquadQuestion(article, paragraph["context"], raw, place)
    except (KeyError, TypeError, AttributeError) as exc:
        problem = f"{exc} is missing" if isinstance(exc, KeyError) else f"{exc}"
        raise DataError(
            f"{path} is not in SQuAD's form: {problem}; expected data > paragraphs > context and qas > question", path=str(path)
        ) from exc
