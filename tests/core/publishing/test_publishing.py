"""Publishing, with a task that needs no ML library."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from guessing_task import DirectRuntime
from pydantic import Base64Bytes, Field

from taskloom.core.artifact import Artifact, DataInfo, LineageStep, Manifest
from taskloom.core.errors import ArtifactError
from taskloom.core.model_card import _calls
from taskloom.core.publishing import ModelStory, publish_model, publish_trained, read_report
from taskloom.core.registry import Registry
from taskloom.core.store import ModelStore
from taskloom.core.task import EvaluationResult, Example, MetricSpec, SharedParts, TaskModel, TaskPlugin, Trained
from taskloom.core.types import Frozen


class Echo(Frozen):
    text: str = Field(examples=["hello"])


class NoParams(Frozen):
    pass


class ShoutModel(TaskModel[Echo, Echo, NoParams]):
    labels = ("LOUD", "louder | loudest")

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def encode(self, inputs: Sequence[Echo]) -> Mapping[str, Any]:
        return {"texts": [i.text for i in inputs]}

    def forward(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"texts": [text + self.mark for text in batch["texts"]]}

    def decode(self, outputs: Any, inputs: Any, params: Any) -> list[Echo]:
        return [Echo(text=text) for text in outputs["texts"]]

    def save(self, folder: Path) -> Mapping[str, Any]:
        (folder / "mark.txt").write_text(self.mark)
        return {"kind": "shout"}


class ShoutTask(TaskPlugin[Echo, Echo, NoParams]):
    """Its models add a mark to a text; `forgets` makes its saved models lose it, `skips` a metric."""

    name: ClassVar[str] = "shout"
    description: ClassVar[str] = "Shouts."
    Input, Output, Params, TrainConfig = Echo, Echo, NoParams, NoParams
    metrics: ClassVar[tuple[MetricSpec, ...]] = (
        MetricSpec(name="exact", description="Share of texts that are right."),
        MetricSpec(name="error", description="Share that is not.", higher_is_better=False),
    )
    primary_metric: ClassVar[str] = "exact"
    data_formats: ClassVar[tuple[str, ...]] = ()

    def __init__(self, forgets: bool = False, skips: bool = False) -> None:
        self.forgets, self.skips = forgets, skips

    def cost(self, input: Echo, params: NoParams) -> int:
        return 1

    def read_examples(self, path: Path) -> Iterator[Example[Echo]]:
        return iter(())

    def train(self, config: Any, train: Any, validation: Any, run: Any) -> Any:
        return Trained(ShoutModel("!"), ({"epoch": 1.0, "loss": 0.5},), {"rows": 3})

    def load(self, artifact: Artifact, shared: SharedParts) -> ShoutModel:
        return ShoutModel("" if self.forgets else artifact.path("mark.txt").read_text())

    def evaluate(self, predictor: Any, examples: Any, figures_folder: Path | None = None) -> EvaluationResult:
        answers = predictor.predict([e.input for e in examples])
        exact = sum(a.text == e.target for a, e in zip(answers, examples, strict=True)) / len(examples)
        assert figures_folder is not None
        figures_folder.mkdir()
        (figures_folder / "loud.png").write_bytes(b"png")
        metrics = {"exact": exact} if self.skips else {"exact": exact, "error": 1 - exact}
        return EvaluationResult(metrics=metrics, intervals={"exact": (0.5, 1.0)}, figures=("loud.png",), examples=len(examples))


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore([tmp_path / "models"])


@pytest.fixture
def registry() -> Registry:
    found = Registry()
    found.runtimes.add(DirectRuntime(), "test")
    return found


UNSEEN = DataInfo(name="unseen.jsonl", sha256="a" * 64, rows=2)
SEEN = DataInfo(name="rows.jsonl", sha256="b" * 64, rows=3, licence="CC BY 4.0", source="a | source")
STORY = ModelStory(
    name="shout-en",
    description="It shouts.",
    languages=("en",),
    licence="Apache-2.0",
    intended_use="Shouting.",
    limits="Not whispering.",
    reproduce=("taskloom train shout-en.toml",),
)


def publish(store: ModelStore, registry: Registry, task: ShoutTask, **options: Any) -> Artifact:
    if "shout" not in registry.tasks:
        registry.tasks.add(task, "test")
    examples = [Example(input=Echo(text="a"), target="a!"), Example(input=Echo(text="b"), target="b?")]
    settings: dict[str, Any] = {"config": {"epochs": 2}, "data": [SEEN], "evaluation": examples, "evaluation_data": UNSEEN}
    return publish_trained(store, registry, task, task.train(None, None, None, None), STORY, **{**settings, **options})


def test_a_published_model_is_whole_and_says_where_it_comes_from(store: ModelStore, registry: Registry) -> None:
    artifact = publish(store, registry, ShoutTask())
    artifact.verify()
    found = artifact.manifest
    assert set(found.files) == {"mark.txt", "report.json", "MODEL_CARD.md", "figures/loud.png"}
    assert found.steps == (LineageStep(name="train", config={"epochs": 2}, facts={"rows": 3}),)
    assert (found.data, found.labels, found.config) == ((SEEN,), ShoutModel.labels, {"kind": "shout"})
    assert found.metrics == {"exact": 0.5, "error": 0.5}
    assert found.packages["pydantic"]
    assert artifact.aliases == ("candidate", "production")


def test_the_report_is_of_the_files_and_not_of_the_model_in_memory(store: ModelStore, registry: Registry) -> None:
    assert publish(store, registry, ShoutTask(forgets=True)).manifest.metrics["exact"] == 0.0


def test_the_report_says_what_it_ran_with(store: ModelStore, registry: Registry) -> None:
    artifact = publish(store, registry, ShoutTask())
    report = read_report(artifact)
    assert (report.plan.precision, report.plan.threads) == ("fp32", 1)
    assert report.evaluation.figures == ("figures/loud.png",)
    assert all(artifact.path(name).is_file() for name in report.evaluation.figures)
    assert report.history == ({"epoch": 1.0, "loss": 0.5},)
    assert report.evaluation_data == UNSEEN
    assert report.machine.cores >= 1


def test_the_card_tells_what_a_user_must_know(store: ModelStore, registry: Registry) -> None:
    card = publish(store, registry, ShoutTask()).path("MODEL_CARD.md").read_text()
    head, _, body = card.removeprefix("---\n").partition("---\n")
    assert json.loads(head.splitlines()[0].partition(": ")[2]) == "shout-en"
    for told in ("It shouts.", "Shouting.", "Not whispering.", "CC BY 4.0", "a \\| source", "taskloom train shout-en.toml"):
        assert told in body
    assert "| **exact** | 0.5000 | 0.5000 to 1.0000 | Share of texts that are right. |" in body
    assert "(lower is better)" in body
    assert "client.infer('shout-en'" in body
    assert "![loud](figures/loud.png)" in body


class Several(Frozen):
    question: str
    history: tuple[str, ...] = ()
    image: Base64Bytes = b""


class SeveralTask(ShoutTask):
    Input = Several


def test_the_card_calls_a_model_by_its_own_example_however_many_fields_it_has() -> None:
    manifest = Manifest(
        model="m",
        task="shout",
        created="2026-11-21",
        examples=({"question": "What's new?", "history": ["5", "6"], "image": "AAEC" * 1000},),
    )
    calls = _calls(manifest, SeveralTask())
    assert """taskloom predict m question='What'"'"'s new?' history='["5", "6"]' image=@FILE --local""" in calls
    assert """{'question': "What's new?", 'history': ['5', '6'], 'image': Path('FILE').read_bytes()}""" in calls
    assert "from pathlib import Path" in calls


def test_nothing_is_published_if_a_metric_is_missing(store: ModelStore, registry: Registry) -> None:
    with pytest.raises(ArtifactError, match="error, which it declares"):
        publish(store, registry, ShoutTask(skips=True))
    assert store.models() == []
    assert not [p for p in store.writable.rglob("*") if p.is_file() and p.name != ".lock"]


def test_a_second_version_does_not_become_production_by_itself(store: ModelStore, registry: Registry) -> None:
    publish(store, registry, ShoutTask())
    second = publish(store, registry, ShoutTask())
    assert (second.name, second.aliases) == ("shout-en@2", ("candidate",))


def test_an_optimized_model_keeps_its_whole_lineage_and_its_runtime(
    store: ModelStore, registry: Registry, tmp_path: Path
) -> None:
    parent = publish(store, registry, ShoutTask())
    (tmp_path / "graph.bin").write_bytes(b"graph")
    examples = [Example(input=Echo(text="a"), target="a!")]
    steps = (*parent.manifest.steps, LineageStep(name="shrink", config={"bits": 8}))
    artifact = publish_model(
        store,
        registry,
        registry.tasks.get("shout"),
        ShoutModel("!"),
        STORY,
        steps=steps,
        data=parent.manifest.data,
        evaluation=examples,
        evaluation_data=UNSEEN,
        demanded_runtime="direct",
        files={"direct/graph.bin": tmp_path / "graph.bin"},
    )
    assert [step.name for step in artifact.manifest.steps] == ["train", "shrink"]
    assert artifact.path("direct/graph.bin").read_bytes() == b"graph"
    assert artifact.manifest.runtime == "direct"
