"""The models behind knowledge bases: any that take and give what is written here, whatever their task is called.

An **embedding** model takes `text` and `kind` (`query` or `passage`) and gives `vector`, of length 1. A **reader** takes
`question` and `context` and gives `answers`, each with `text`, `start`, `end` and `score`, and `no_answer_score`; its parameter
`no_answer_threshold` set to 1 makes it answer in any case.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.core.errors import DeadlineExceededError, ModelFailedError, UnsupportedError
from taskloom.core.knowledge_calls import MAX_QUESTION_CHARACTERS
from taskloom.core.ports import InferenceEngine
from taskloom.core.settings import KnowledgeSettings
from taskloom.core.types import InferCall, InferResult, ModelRef

Vector = NDArray[np.float32]
AT_ONCE = 128
"""Passages that are embedded at a time: enough to fill batches, few enough that other requests find room in the queue."""
LOW_PRIORITY = -50
"""Of embedding documents: questions go first."""


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


class KnowledgeModels:
    """The models of each language, through the engine that serves them."""

    def __init__(self, engine: InferenceEngine, settings: KnowledgeSettings) -> None:
        self._engine = engine
        self._languages = settings.languages
        self._embedding = asyncio.Semaphore(AT_ONCE)

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
        async with self._embedding:
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


def _reading(result: InferResult) -> Reading:
    answers = result.output.get("answers")
    if answers is None or "no_answer_score" not in result.output:
        raise ModelFailedError(f"{result.model} was to give answers and a no_answer_score, and did not: it is no reader")
    if not answers:
        return Reading("", 0, 0, 0.0, float(result.output["no_answer_score"]))
    best = answers[0]
    return Reading(best["text"], best["start"], best["end"], best["score"], float(result.output["no_answer_score"]))
