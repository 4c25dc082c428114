"""The models behind knowledge bases: any that take and give what is written here, whatever their task is called.

An **embedding** model takes `text` and `kind` (`query` or `passage`) and gives `vector`, of length 1. A **reader** takes
`question` and `context` and gives `answers`, each with `text`, `start`, `end` and `score`, and `no_answer_score`; its parameter
`no_answer_threshold` set to 1 makes it answer in any case. A **re-ranker** is a reader, which says how likely a passage holds
no answer, or takes `text` and `text_pair` (question and passage) and gives `labels`, each with `label` and `score`: one of them
is `relevant`, or there is only one. A **writer** takes `document` and gives `summary`, and perhaps `truncated`.

For graphs, an **entity** model takes `text` and gives `entities`, each with `text`, `label`, `start`, `end` (code points) and
`score`. A **relation** model takes `text` and in it `head` and `tail`, each with `start` and `end`, and gives `labels`, the
best first, each with `label`, `score` and, if it tells them apart, `relation` and `direction` (`tail_to_head`, where it is so).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.core.errors import DeadlineExceededError, InvalidInputError, ModelFailedError, NotFoundError, UnsupportedError
from taskloom.core.knowledge_calls import MAX_QUESTION_CHARACTERS, AnswerConfig
from taskloom.core.knowledge_graph import EntityMention
from taskloom.core.language import simplified
from taskloom.core.ports import InferenceEngine, PartSink
from taskloom.core.settings import KnowledgeSettings
from taskloom.core.types import InferCall, InferResult, ModelRef
from taskloom.server.knowledge.at_once import all_of

log = logging.getLogger(__name__)

Vector = NDArray[np.float32]
Span = tuple[int, int]
AT_ONCE = 128
"""Passages that models are asked about at a time: enough to fill batches, few enough that other requests find room in the
queue."""
LOW_PRIORITY = -50
"""Of what is asked about documents: questions of users go first."""
RELEVANT = "relevant"
"""The label of a pair whose passage answers the question."""
TRIED = ("Which river is the longest?", "The Nile is the longest river of Africa.")
"""What models are tried with before a base is set to use them."""


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
class Written:
    """What a writer made of a prompt; with `truncated` it did not read the prompt's end. `model` is its name and version."""

    text: str
    truncated: bool
    model: str


@dataclass(frozen=True)
class Told:
    """What a relation model says of two names; `backwards`: the second is the head."""

    relation: str
    backwards: bool
    score: float


class KnowledgeModels:
    """The models of each language, and those that bases name, through the engine that serves them."""

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
        """The space that each language's passages are embedded in now: the model's name and version. A language whose model is
        not served has none."""
        found = {}
        for language in filter(self.embeds, self._languages):
            try:
                info = self._engine.describe(ModelRef.parse(self._model(language, "embedding"))).info
            except NotFoundError as error:
                log.warning("passages in %r will be found by their words alone: %s", language, error)
                continue
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
        """Chinese lies where it does in Simplified characters."""
        model = self._model(language, "embedding")
        text = simplified(text) if language == "zh" else text
        result = await self._ask(model, {"text": text, "kind": kind}, {}, deadline_s, priority=priority)
        vector = np.asarray(result.output.get("vector", ()), dtype=np.float32)
        if vector.ndim != 1 or not vector.size:
            raise ModelFailedError(f"{result.model} was to give a vector, and gave none: it is no embedding model")
        return Placed(f"{result.model}@{result.version}", vector)

    async def read(
        self, question: str, passages: Sequence[str], language: str, deadline_s: float | None = None
    ) -> tuple[list[Reading], str]:
        """What the reader of the language finds in each passage, and its name and version; nothing where it is not served. All
        are asked at once, so that they share batches."""
        if not passages:
            return [], ""
        model = self._model(language, "reader")
        question = question[-MAX_QUESTION_CHARACTERS:]  # its end is what was asked last
        asked = [
            self._ask(model, {"question": question, "context": passage}, {"no_answer_threshold": 1.0}, deadline_s)
            for passage in passages
        ]
        try:
            results = await all_of(asked)
        except NotFoundError as error:
            log.warning("questions in %r are answered by FAQ entries alone: %s", language, error)
            return [], ""
        return [_reading(result) for result in results], f"{results[0].model}@{results[0].version}"

    async def rerank(
        self, model: str, question: str, passages: Sequence[str], deadline_s: float | None = None
    ) -> tuple[list[float], str]:
        """How likely each passage answers the question, from 0 to 1, in the opinion of a model that reads both together; and
        its name and version. All are asked at once, so that they share batches. Raises `UnsupportedError` for a model that is
        not served or judges no pairs."""
        if not passages:
            return [], ""
        fields = self._takes(model, "re-ranker")
        question = question[-MAX_QUESTION_CHARACTERS:]
        reads = {"question", "context"} <= fields
        if not reads and not {"text", "text_pair"} <= fields:
            raise UnsupportedError(
                f"{model} takes {_told(fields)}: a re-ranker takes text and text_pair, or question and context"
            )
        names = ("question", "context") if reads else ("text", "text_pair")
        params: dict[str, Any] = {"no_answer_threshold": 1.0} if reads else {"top_k": None, "threshold": 0.0}
        asked = [self._ask(model, dict(zip(names, (question, one), strict=True)), params, deadline_s) for one in passages]
        results = await all_of(asked)
        scores = [1.0 - _reading(result).no_answer if reads else _relevance(result) for result in results]
        return scores, f"{results[0].model}@{results[0].version}"

    async def write(
        self,
        model: str,
        prompt: str,
        params: Mapping[str, Any],
        deadline_s: float | None = None,
        send: PartSink | None = None,
    ) -> Written:
        """What a model that writes makes of a prompt; its parts go to `send` first, if it is one that streams. Raises
        `UnsupportedError` for a model that is not served or does not write."""
        if "document" not in (fields := self._takes(model, "writer")):
            raise UnsupportedError(f"{model} takes {_told(fields)}: a writer takes a document, as models of summarization do")
        result = await self._ask(model, {"document": prompt}, dict(params), deadline_s, send=send)
        if result.output.get("sentences"):
            raise UnsupportedError(f"{model} chooses sentences of what it is given and writes nothing; name a seq2seq model")
        text = result.output.get("summary")
        if not isinstance(text, str):
            raise ModelFailedError(f"{result.model} was to give a summary, and gave none: it is no writer")
        return Written(text.strip(), bool(result.output.get("truncated")), f"{result.model}@{result.version}")

    async def check(self, config: AnswerConfig) -> None:
        """Asks the models that a base is to use, with its settings: who sets them learns what is wrong, not who asks a question
        later. Raises `InvalidInputError`."""
        question, passage = TRIED
        try:
            field = "reranker"
            if config.reranker:
                await self.rerank(config.reranker, question, [passage])
            field = "writer"
            if config.writer:
                await self.write(config.writer, f"{question} {passage}", config.params)
        except (InvalidInputError, ModelFailedError, UnsupportedError) as exc:
            raise InvalidInputError(f"answering.{field}: {exc.message}", field=f"answering.{field}") from exc

    def _takes(self, model: str, use: str) -> frozenset[str]:
        """The fields of a model's input."""
        try:
            schema = self._engine.describe(ModelRef.parse(model)).input_schema
        except NotFoundError as exc:  # its message lists models, which are not everybody's to see
            raise UnsupportedError(
                f"{model!r}, the {use} of this base, is not served here; serve it, or name another one: taskloom kb configure"
            ) from exc
        return frozenset(schema.get("properties", {}))

    # -- for graphs -------------------------------------------------------------------------------------------------------

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
                f"the graph of this knowledge base needs {name}, which is not served. Serve it as well, or name "
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
        self,
        model: str,
        given: dict[str, Any],
        params: dict[str, Any],
        deadline_s: float | None,
        *,
        priority: int = 0,
        send: PartSink | None = None,
    ) -> InferResult:
        call = InferCall(model=ModelRef.parse(model), input=given, params=params, deadline_s=deadline_s, priority=priority)
        if deadline_s is None:
            return await self._engine.infer(call, send)
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.time())):
                return await self._engine.infer(call, send)
        except TimeoutError as exc:
            raise DeadlineExceededError(f"the deadline passed before {model} had answered") from exc


def _told(fields: frozenset[str]) -> str:
    return ", ".join(sorted(fields)) or "nothing that is known"


def _relevance(result: InferResult) -> float:
    labels = result.output.get("labels") or ()
    scores = {str(one["label"]).casefold(): float(one["score"]) for one in labels}
    if RELEVANT in scores:
        return scores[RELEVANT]
    if len(scores) != 1:
        raise UnsupportedError(
            f"{result.model} has the labels {', '.join(sorted(scores)) or 'none'}, of which one must be {RELEVANT!r}; import "
            "it with `labels` that say which one is"
        )
    return next(iter(scores.values()))


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
