"""The models behind knowledge bases: any that take and give what is written here, whatever their task is called.

An **embedding** model takes `text` and `kind` (`query` or `passage`) and gives `vector`, of length 1. A **reader** takes
`question` and `context` and gives `answers`, each with `text`, `start`, `end` and `score`, and `no_answer_score`; its parameter
`no_answer_threshold` set to 1 makes it answer in any case.

For graphs, an **entity** model takes `text` and gives `entities`, each with `text`, `label`, `start`, `end` (code points) and
`score`. A **relation** model takes `text` and in it `head` and `tail`, each with `start` and `end`, and gives `labels`, the
best first, each with `label`, `score` and, if it tells them apart, `relation` and `direction` (`tail_to_head`, where it is so).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.core.errors import DeadlineExceededError, ModelFailedError, NotFoundError, UnsupportedError
from taskloom.core.knowledge_calls import MAX_QUESTION_CHARACTERS
from taskloom.core.knowledge_graph import EntityMention
from taskloom.core.ports import InferenceEngine
from taskloom.core.settings import KnowledgeSettings
from taskloom.core.types import InferCall, InferResult, ModelRef

log = logging.getLogger(__name__)

Vector = NDArray[np.float32]
Span = tuple[int, int]
AT_ONCE = 128
"""Passages that models are asked about at a time: enough to fill batches, few enough that other requests find room in the
queue."""
LOW_PRIORITY = -50
"""Of what is asked about documents: questions of users go first."""


@dataclass(frozen=True)
class Placed:
    """A text's place in a space."""

    space: str
    vector: Vector


@dataclass(frozen=True)
class Reading:
    """What a reader found in a passage: `start` and `end` in code points of what it read; `score` and `no_answer` are
    probabilities."""

    text: str
    start: int
    end: int
    score: float
    no_answer: float


@dataclass(frozen=True)
class Told:
    """What a relation model says of two names; `backwards`: the second is the head."""

    relation: str
    backwards: bool
    score: float


class KnowledgeModels:
    """The models of each language, through the engine that serves them."""

    def __init__(self, engine: InferenceEngine, settings: KnowledgeSettings) -> None:
        self._engine = engine
        self._languages = settings.languages
        self._about_documents = asyncio.Semaphore(AT_ONCE)

    def embeds(self, language: str) -> bool:
        """Whether passages of the language have a place in some space; others are found by their words alone."""
        return language in self._languages and bool(self._languages[language].embedding)

    def reads(self, language: str) -> bool:
        """Whether there is a reader for questions in the language."""
        return language in self._languages and bool(self._languages[language].reader)

    def spaces(self) -> dict[str, str]:
        """The space that each language's passages are embedded in now: the model's name and version."""
        found = {}
        for language in filter(self.embeds, self._languages):
            info = self._engine.describe(ModelRef.parse(self._model(language, "embedding"))).info
            found[language] = f"{info.name}@{info.version}"
        return found

    async def place_passage(self, text: str, language: str) -> Placed:
        """Where a passage lies. Few are under way at a time, and questions go before them."""
        async with self._about_documents:
            return await self._place(text, language, "passage", None, LOW_PRIORITY)

    async def place_question(self, text: str, language: str, deadline_s: float | None) -> Placed:
        """Where a question lies. Raises `UnsupportedError` for a language without an embedding model."""
        return await self._place(text, language, "query", deadline_s, 0)

    async def _place(self, text: str, language: str, kind: str, deadline_s: float | None, priority: int) -> Placed:
        model = self._model(language, "embedding")
        result = await self._ask(model, {"text": text, "kind": kind}, {}, deadline_s, priority=priority)
        vector = np.asarray(result.output.get("vector", ()), dtype=np.float32)
        if vector.ndim != 1 or not vector.size:
            raise ModelFailedError(f"{result.model} was to give a vector, and gave none: it is no embedding model")
        return Placed(f"{result.model}@{result.version}", vector)

    async def read(
        self, question: str, passages: Sequence[str], language: str, deadline_s: float | None = None
    ) -> tuple[list[Reading], str]:
        """What the reader of the language finds in each passage, and its name and version. All are asked at once, so that they
        share batches."""
        if not passages:
            return [], ""
        model = self._model(language, "reader")
        question = question[-MAX_QUESTION_CHARACTERS:]  # its end is what was asked last
        asked = [
            self._ask(model, {"question": question, "context": passage}, {"no_answer_threshold": 1.0}, deadline_s)
            for passage in passages
        ]
        results = await asyncio.gather(*asked)
        return [_reading(result) for result in results], f"{results[0].model}@{results[0].version}"

    # For graphs

    def finds_names(self, language: str) -> bool:
        """Whether texts of the language have a part in graphs."""
        return language in self._languages and bool(self._languages[language].entities)

    def relates(self, language: str) -> bool:
        """Whether a graph says how names in the language are related, and not only where they stand."""
        return language in self._languages and bool(self._languages[language].relations)

    def extractors(self, languages: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Of those of these languages that have a part in graphs, NAME@VERSION of the models that read passages now. Raises
        `UnsupportedError` for one that is not served."""
        return {
            language: tuple(self.extractor(language, use) for use in ("entities", "relations")[: 1 + self.relates(language)])
            for language in filter(self.finds_names, languages)
        }

    def extractor(self, language: str, use: str) -> str:
        name = self._model(language, use)
        try:
            info = self._engine.describe(ModelRef.parse(name)).info
        except NotFoundError as exc:
            raise UnsupportedError(
                f"the graph of this knowledge base needs {name}, which is not served: {exc.message}. Serve it as well, or name "
                f"another or none as `{use}` in [knowledge.languages.{language}]"
            ) from exc
        return f"{info.name}@{info.version}"

    async def entities(self, text: str, language: str) -> tuple[list[EntityMention], str]:
        """The names in a passage, in its order, and the model that found them."""
        async with self._about_documents:
            return await self._entities(text, language, None, LOW_PRIORITY)

    async def names_asked(self, text: str, language: str, deadline_s: float | None) -> tuple[tuple[str, ...], str]:
        """The names in a question, and the model that found them; none where no model is there for it."""
        if not self.finds_names(language):
            return (), ""
        try:
            found, model = await self._entities(text, language, deadline_s, 0)
        except NotFoundError as error:
            log.warning("a question's names are those that the graph knows, and no others: %s", error)
            return (), ""
        return tuple(one.text for one in found), model

    async def _entities(
        self, text: str, language: str, deadline_s: float | None, priority: int
    ) -> tuple[list[EntityMention], str]:
        model = self._model(language, "entities")
        result = await self._ask(model, {"text": text}, {}, deadline_s, priority=priority)
        with _as_told(result, "entities, each with text, label, start, end and score"):
            fields = EntityMention.model_fields
            found = [EntityMention(**{name: one[name] for name in fields}) for one in result.output["entities"]]
            if any(text[one.start : one.end] != one.text for one in found):
                raise ValueError("a text that does not stand there")
        return sorted(found, key=lambda one: (one.start, -one.end)), f"{result.model}@{result.version}"

    async def relation(self, text: str, head: Span, tail: Span, language: str) -> tuple[Told, str]:
        """What the relation model says of two parts of a text, and its name and version."""
        given = {"text": text, **{name: {"start": span[0], "end": span[1]} for name, span in (("head", head), ("tail", tail))}}
        async with self._about_documents:
            result = await self._ask(self._model(language, "relations"), given, {"top_k": 1}, None, priority=LOW_PRIORITY)
        with _as_told(result, "labels, the best first, each with label and score"):
            best = result.output["labels"][0]
            relation, backwards = str(best.get("relation") or best["label"]), best.get("direction") == "tail_to_head"
            told = Told(relation, backwards, float(best["score"]))
            if not relation or not 0 <= told.score <= 1:
                raise ValueError("no name of a relation, or no probability")
        return told, f"{result.model}@{result.version}"

    def _model(self, language: str, use: str) -> str:
        models = self._languages.get(language)
        name: str = getattr(models, use) if models is not None else ""
        if not name:
            there = ", ".join(sorted(code for code, own in self._languages.items() if getattr(own, use))) or "none"
            raise UnsupportedError(
                f"there is no {use} model for language {language or 'unknown'!r}; languages with one: {there}. Name one in "
                f"[knowledge.languages.{language or 'CODE'}]"
            )
        return name

    async def _ask(
        self, model: str, given: dict[str, Any], params: dict[str, Any], deadline_s: float | None, *, priority: int = 0
    ) -> InferResult:
        call = InferCall(model=ModelRef.parse(model), input=given, params=params, deadline_s=deadline_s, priority=priority)
        if deadline_s is None:
            return await self._engine.infer(call)
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.time())):
                return await self._engine.infer(call)
        except TimeoutError as exc:
            raise DeadlineExceededError(f"the deadline passed before {model} had answered") from exc


@contextmanager
def _as_told(result: InferResult, what: str) -> Iterator[None]:
    """Raises `ModelFailedError` where a model's output is not what it was to give."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as exc:
        raise ModelFailedError(f"{result.model} was to give {what}, and did not: it can make no graph") from exc


def _reading(result: InferResult) -> Reading:
    answers = result.output.get("answers")
    if answers is None or "no_answer_score" not in result.output:
        raise ModelFailedError(f"{result.model} was to give answers and a no_answer_score, and did not: it is no reader")
    if not answers:
        return Reading("", 0, 0, 0.0, float(result.output["no_answer_score"]))
    best = answers[0]
    return Reading(best["text"], best["start"], best["end"], best["score"], float(result.output["no_answer_score"]))
