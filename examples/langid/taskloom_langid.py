"""Language identification: naive Bayes over character n-grams, as a Taskloom task in one file.

It needs no ML library, so its models run on the `python` runtime; a task with a torch module differs only in that its
`forward` gets and gives tensors.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

import taskloom.core as taskloom
from taskloom.core.errors import DataError
from taskloom.core.task import Batch, Outputs, Trained, TrainRun
from taskloom.core.types import Frozen

WEIGHTS = "ngrams.json"


class LangidInput(Frozen):
    model_config = {"json_schema_extra": {"examples": [{"text": "Where is the station?"}, {"text": "车站在哪里？"}]}}

    text: str = Field(min_length=1, max_length=100_000, strict=True)
    """Strict, since pydantic takes bytes for a text otherwise."""


class LanguageScore(Frozen):
    language: str
    score: float = Field(ge=0, le=1)


class LangidOutput(Frozen):
    model_config = {"json_schema_extra": {"examples": [{"languages": [{"language": "en", "score": 0.98}]}]}}

    languages: tuple[LanguageScore, ...]


class LangidParams(Frozen):
    model_config = {"json_schema_extra": {"examples": [{"top_k": 2}]}}

    top_k: int = Field(default=1, ge=1)


class LangidConfig(Frozen):
    longest: int = Field(default=3, ge=1, le=5)
    smoothing: float = Field(default=0.5, gt=0)


def ngrams(text: str, longest: int) -> list[str]:
    padded = f" {text.casefold()} "
    return [padded[i : i + n] for n in range(1, longest + 1) for i in range(len(padded) - n + 1)]


class LangidModel(taskloom.TaskModel[LangidInput, LangidOutput, LangidParams]):
    """log P(language | text) = sum of log P(n-gram | language), with additive smoothing; languages are equally likely."""

    def __init__(self, counts: Mapping[str, Mapping[str, int]], config: LangidConfig) -> None:
        self.counts = counts
        self.config = config
        self.labels = tuple(sorted(counts))
        self.totals = {language: sum(counts[language].values()) for language in counts}
        self.kinds = len({gram for grams in counts.values() for gram in grams}) + 1

    def encode(self, inputs: Sequence[LangidInput]) -> Batch:
        return {"ngrams": [ngrams(item.text, self.config.longest) for item in inputs]}

    def forward(self, batch: Batch) -> Outputs:
        return {"log_likelihood": [[self._log_likelihood(grams, lang) for lang in self.labels] for grams in batch["ngrams"]]}

    def _log_likelihood(self, grams: Sequence[str], language: str) -> float:
        counts, alpha = self.counts[language], self.config.smoothing
        floor = self.totals[language] + alpha * self.kinds
        return sum(math.log((counts.get(gram, 0) + alpha) / floor) for gram in grams)

    def decode(self, outputs: Outputs, inputs: Sequence[LangidInput], params: Sequence[LangidParams]) -> list[LangidOutput]:
        return [self._ranked(row, asked.top_k) for row, asked in zip(outputs["log_likelihood"], params, strict=True)]

    def _ranked(self, row: Sequence[float], top_k: int) -> LangidOutput:
        best = max(row)
        weights = [math.exp(value - best) for value in row]
        scores = [weight / sum(weights) for weight in weights]
        ranked = sorted(zip(self.labels, scores, strict=True), key=lambda pair: -pair[1])
        return LangidOutput(languages=tuple(LanguageScore(language=name, score=score) for name, score in ranked[:top_k]))

    def save(self, folder: Path) -> Mapping[str, Any]:
        (folder / WEIGHTS).write_text(json.dumps(self.counts, ensure_ascii=False, sort_keys=True), encoding="utf-8")
        return self.config.model_dump()


class LangidTask(taskloom.TaskPlugin[LangidInput, LangidOutput, LangidParams]):
    name = "langid"
    description = "Which language a text is in."
    Input, Output, Params, TrainConfig = LangidInput, LangidOutput, LangidParams, LangidConfig
    metrics = (taskloom.MetricSpec(name="accuracy", description="Share of texts whose language comes first."),)
    primary_metric = "accuracy"
    data_formats = ("jsonl",)
    text_field = "text"

    def cost(self, input: LangidInput, params: LangidParams) -> int:
        return len(input.text)

    def read_examples(self, path: Path) -> Iterator[taskloom.Example[LangidInput]]:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                    yield taskloom.Example(
                        input=LangidInput(text=row["text"]), target=str(row["language"]), path=str(path), line=number
                    )
                except (ValueError, KeyError, TypeError) as exc:
                    expected = 'a row is {"text": ..., "language": ...}'
                    raise DataError(f"{path}, line {number}: {expected} ({exc})", str(path), number) from exc

    def train(
        self,
        config: LangidConfig,
        train: Sequence[taskloom.Example[LangidInput]],
        validation: Sequence[taskloom.Example[LangidInput]],
        run: TrainRun,
    ) -> Trained[LangidInput, LangidOutput, LangidParams]:
        counts: dict[str, Counter[str]] = {}
        for example in train:
            counts.setdefault(example.target, Counter()).update(ngrams(example.input.text, config.longest))
        return Trained(LangidModel(counts, config), history=[], facts={"rows": len(train)}, runtime="python")

    def load(self, artifact: taskloom.Artifact, shared: taskloom.SharedParts) -> LangidModel:
        counts = json.loads(artifact.path(WEIGHTS).read_text(encoding="utf-8"))
        return LangidModel(counts, LangidConfig(**artifact.manifest.config))

    def evaluate(
        self,
        predictor: taskloom.Predictor[LangidInput, LangidOutput, LangidParams],
        examples: Sequence[taskloom.Example[LangidInput]],
        figures_folder: Path | None = None,
    ) -> taskloom.EvaluationResult:
        right = sum(predictor.predict_one(e.input).languages[0].language == e.target for e in examples)
        return taskloom.EvaluationResult(metrics={"accuracy": right / len(examples)}, examples=len(examples))


@taskloom.hookimpl
def register_tasks(register: Any) -> None:
    register(LangidTask())
