"""A task without an ML library, whose models are as wrong, as slow and as large as they are told; and optimizers for it.

Rows are texts such as "number 17, please"; the label is `even` or `odd`. A process that measures artifacts makes the same
registry again from `guessing_task:registry`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from taskloom.core.artifact import Artifact, DataInfo
from taskloom.core.comparison import Latency, LatencyRatio, Performance
from taskloom.core.errors import DataError, UnsupportedError
from taskloom.core.optimizer import OptimizeContext, Optimized, OptimizerPlugin
from taskloom.core.publishing import ModelStory, publish_trained
from taskloom.core.registry import Registry
from taskloom.core.runtime import ExecutionPlan, RuntimeConfig, RuntimePlugin
from taskloom.core.store import ModelStore
from taskloom.core.task import EvaluationResult, Example, MetricSpec, Pairing, SharedParts, TaskModel, TaskPlugin, Trained
from taskloom.core.types import Frozen
from taskloom.plugins._shared.bootstrap import intervals_of, replicates

LABELS = ("even", "odd")
FACTORY = "guessing_task:registry"


class Question(Frozen):
    text: str = Field(min_length=1)


class Guess(Frozen):
    label: str
    score: float


class NoParams(Frozen):
    pass


class Nature(Frozen):
    """What a model is like. `wrong` is the share of rows that it gets wrong, always the same ones; a `fragile` one needs the
    word "number" as it was trained; `broken` ones can't be read again."""

    wrong: float = 0.1
    sleep_s: float = 0.0
    bulk_bytes: int = 10_000
    fragile: bool = False
    broken: bool = False


def true_label(number: int) -> str:
    return LABELS[number % 2]


class GuessModel(TaskModel[Question, Guess, NoParams]):
    labels = LABELS

    def __init__(self, nature: Nature) -> None:
        self.nature = nature

    def encode(self, inputs: Sequence[Question]) -> Mapping[str, Any]:
        return {"texts": [one.text for one in inputs]}

    def forward(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        time.sleep(self.nature.sleep_s)
        return {"labels": [self._guess(text) for text in batch["texts"]]}

    def _guess(self, text: str) -> str:
        found = re.search(r"\d+", text)
        number = int(found[0]) if found else 0
        misled = self.nature.fragile and "number" not in text
        wrong = (number * 37) % 100 < 100 * self.nature.wrong or misled
        return true_label(number + wrong)

    def decode(self, outputs: Any, inputs: Any, params: Any) -> list[Guess]:
        return [Guess(label=label, score=0.9) for label in outputs["labels"]]

    def save(self, folder: Path) -> Mapping[str, Any]:
        (folder / "nature.json").write_text(self.nature.model_dump_json())
        (folder / "bulk.bin").write_bytes(b"\0" * self.nature.bulk_bytes)
        return {}

    def save_rest(self, folder: Path) -> Mapping[str, Any]:
        return self.save(folder)


class GuessTask(TaskPlugin[Question, Guess, NoParams]):
    name: ClassVar[str] = "guess"
    description: ClassVar[str] = "Guesses whether a number is even."
    Input, Output, Params, TrainConfig = Question, Guess, NoParams, NoParams
    metrics: ClassVar[tuple[MetricSpec, ...]] = (
        MetricSpec(name="accuracy", description="Share of right guesses."),
        MetricSpec(name="error", description="Share of wrong guesses.", higher_is_better=False),
    )
    primary_metric: ClassVar[str] = "accuracy"
    data_formats: ClassVar[tuple[str, ...]] = ("jsonl",)
    text_field: ClassVar[str | None] = "text"
    caution: ClassVar[str] = "It guesses."

    def cost(self, input: Question, params: NoParams) -> int:
        return len(input.text)

    def read_examples(self, path: Path) -> Iterator[Example[Question]]:
        for line, text in enumerate(path.read_text().splitlines(), start=1):
            row = json.loads(text)
            yield Example(input=Question(text=row["text"]), target=row["label"], path=str(path), line=line)

    def train(self, config: Any, train: Any, validation: Any, run: Any) -> Any:
        raise UnsupportedError("nothing is learnt here")

    def load(self, artifact: Artifact, shared: SharedParts) -> GuessModel:
        nature = Nature.model_validate_json(artifact.path("nature.json").read_text())
        if nature.broken:
            raise DataError("this model can't be read again")
        return GuessModel(nature)

    def evaluate(self, predictor: Any, examples: Any, figures_folder: Path | None = None) -> EvaluationResult:
        answers = predictor.predict([row.input for row in examples])
        hits = np.array([float(answer.label == row.target) for answer, row in zip(answers, examples, strict=True)])
        targets = np.array([row.target for row in examples])

        def measured(rows: Any) -> dict[str, float]:
            return {"accuracy": float(hits[rows].mean()), "error": float(1 - hits[rows].mean())}

        def classes(rows: Any) -> dict[str, float]:
            inside = {label: hits[rows][targets[rows] == label] for label in LABELS}
            return {label: float(own.mean()) if len(own) else 1.0 for label, own in inside.items()}

        everything = np.arange(len(hits))
        drawn = replicates(measured, len(hits), resamples=200)
        table = [(label, f1, f1, f1, int((targets == label).sum())) for label, f1 in classes(everything).items()]
        return EvaluationResult(
            metrics=measured(everything),
            intervals=intervals_of(drawn),
            tables={"per_class": (("label", "precision", "recall", "f1", "support"), *table)},
            examples=len(hits),
            pairing=Pairing(
                metrics=drawn, classes=replicates(classes, len(hits), resamples=200), rows=tuple(float(hit) for hit in hits)
            ),
        )


class DirectExecutor:
    def __init__(self, model: Any, plan: ExecutionPlan) -> None:
        self.model, self.plan = model, plan

    def run(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(self.model.forward(batch))

    def close(self) -> None: ...


class DirectRuntime(RuntimePlugin):
    name = "direct"
    description = "Calls forward."

    def unavailable(self) -> None:
        return None

    def plan(self, config: RuntimeConfig) -> ExecutionPlan:
        return ExecutionPlan(runtime="direct", device="cpu", precision="fp32", threads=1)

    def load(self, model: Any, artifact: Any, plan: ExecutionPlan) -> Any:
        return DirectExecutor(model, plan)


class AlterConfig(Frozen):
    """What becomes of the model's nature; None leaves it."""

    wrong: float | None = None
    sleep_s: float | None = None
    bulk_bytes: int | None = None
    fragile: bool | None = None
    broken: bool | None = None
    seed: int = 0
    external: bool = False


class Alter(OptimizerPlugin):
    """Changes the model as it is told; counts how often, and fails while `fails` is set."""

    description = "Changes a model's nature."
    Config = AlterConfig

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]
        self.applied = 0
        self.fails = False
        self.saw: list[Artifact] = []
        self.scored: list[Mapping[str, float]] = []
        self.contexts: list[OptimizeContext] = []

    def check(self, task: Any, artifact: Artifact, config: Any) -> None:
        self.saw.append(artifact)

    def apply(self, model: Any, config: Any, context: OptimizeContext) -> Optimized:
        self.contexts.append(context)
        (context.run.work_folder / "checkpoint").write_text("half")
        if self.fails:
            raise KeyboardInterrupt
        for event in ({"event": "step"}, {"event": "epoch", "epoch": 1.0, "loss": 0.5}):  # as the training loop tells them
            context.run.on_event({**event, "step": 1, "steps": 1})
        self.applied += 1
        changes = config.model_dump(include=set(Nature.model_fields), exclude_none=True)
        model.nature = model.nature.model_copy(update=changes)
        self.scored.append(context.score(Optimized(model, {})))
        if not config.external:
            return Optimized(model, {"bytes": model.nature.bulk_bytes})
        graph = context.run.work_folder / "graph.bin"
        graph.write_bytes(b"graph")
        return Optimized(model, {}, files={"graph/model.bin": graph}, runtime="direct", external=True)


def registry() -> Registry:
    found = Registry()
    found.tasks.add(GuessTask(), "test")
    found.runtimes.add(DirectRuntime(), "test")
    for name in ("shrink", "polish"):
        found.optimizers.add(Alter(name), "test")
    return found


def rows(first: int, last: int) -> list[Example[Question]]:
    """Odd ones have long texts, so that there are short and long inputs."""
    return [
        Example(
            input=Question(text=f"number {n}, please" + n % 2 * " and tell me at once"),
            target=true_label(n),
            path="rows.jsonl",
            line=n,
        )
        for n in range(first, last)
    ]


def write_rows(path: Path, first: int, last: int) -> Path:
    lines = [json.dumps({"text": row.input.text, "label": row.target}) for row in rows(first, last)]
    path.write_text("\n".join(lines) + "\n")
    return path


TRAINED_ON = DataInfo(name="first.jsonl", sha256="a" * 64, rows=3, licence="CC BY 4.0")


def publish_parent(
    store: ModelStore, found: Registry, nature: Nature | None = None, data: Sequence[DataInfo] = (TRAINED_ON,)
) -> Artifact:
    """The model that everything is compared with, in production."""
    return publish_trained(
        store,
        found,
        found.tasks.get("guess"),
        Trained(GuessModel(nature or Nature(wrong=0.05, bulk_bytes=100_000)), (), {"rows": 3}),
        ModelStory(
            name="guess-en",
            description="It guesses numbers.",
            languages=("en",),
            licence="Apache-2.0",
            intended_use="Guessing in tests.",
            limits="Whole numbers alone.",
            examples=({"text": "number 5, please"},),
        ),
        config={"epochs": 1},
        data=data,
        evaluation=rows(0, 100),
        evaluation_data=DataInfo(name="unseen.jsonl", sha256="b" * 64, rows=100),
    )


def imagined_speed(*_: Any, **__: Any) -> tuple[list[Performance], list[LatencyRatio]]:
    """In place of `performance.measure`, where no process is to be started: the candidate is twice as fast."""
    found = []
    for p50_s in (0.002, 0.001):
        latencies = tuple(
            Latency(batch=batch, inputs="alike", p50_s=p50_s, p99_s=2 * p50_s, calls=100, items_per_s=batch / p50_s)
            for batch in (1, 8)
        )
        found.append(Performance(cold_load_s=1.0, peak_rss_bytes=1, cpu_s_per_1000=1.0, weights_bytes=0, latencies=latencies))
    ratios = [
        LatencyRatio(batch=batch, inputs="alike", cpu=0.5, p50=0.5, p99=0.5, p99_low=0.4, p99_high=0.6) for batch in (1, 8)
    ]
    return found, ratios
