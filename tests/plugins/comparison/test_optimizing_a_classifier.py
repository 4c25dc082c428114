"""A real, tiny classifier through an optimizer and the whole report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from guessing_task import AlterConfig

from taskloom.core.artifact import DataInfo
from taskloom.core.loader import load_registry
from taskloom.core.optimizer import OptimizeContext, Optimized, OptimizerPlugin
from taskloom.core.optimizing import StepRequest
from taskloom.core.performance import QUICK
from taskloom.core.publishing import ModelStory, publish_trained, read_report
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, TrainRun
from taskloom.plugins.optimizing import DataFiles, optimize_model
from taskloom.plugins.tasks.classification.schema import ClassificationInput, TrainConfig

WORDS = {"card": ["where is my card", "lost my card", "card ?"], "order": ["where is my order", "refund the order", "order !"]}


class Forget(OptimizerPlugin):
    """Sets the head's row of the first label to zero: every text is about the other one, or about neither."""

    name = "forget"
    description = "Forgets a label."
    Config = AlterConfig

    def check(self, task: Any, artifact: Any, config: Any) -> None: ...

    def apply(self, model: Any, config: Any, context: OptimizeContext) -> Optimized:
        head = [part for part in model.module.modules() if isinstance(part, torch.nn.Linear) and part.out_features == 2][-1]
        with torch.no_grad():
            head.weight[0] = 0
            head.bias[0] = -5
        return Optimized(model, dict(context.score(Optimized(model, {}))))


def rows(letters: str) -> list[tuple[str, str]]:
    return [(f"{words[i % 3]} {letter}", label) for i, letter in enumerate(letters) for label, words in WORDS.items()]


def write(path: Path, letters: str) -> Path:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows(letters)))
    return path


def test_a_classifier_that_forgot_a_label_is_found_out(tmp_path: Path, tiny_bert: str) -> None:
    registry, store = load_registry(), ModelStore([tmp_path / "models"])
    registry.optimizers.add(Forget(), "test")
    task = registry.tasks.get("classification")
    rates = {"learning_rate": 5e-3, "head_learning_rate": 0.1, "ema_decay": 0.5, "dropout": 0.0}
    config = TrainConfig(backbone=tiny_bert, adapter=None, epochs=15, batch_size=8, validation_fraction=0, **rates)
    examples = [
        Example(input=ClassificationInput(text=text), target=label, path="d.jsonl", line=i)
        for i, (text, label) in enumerate(rows("abcdefghij"))
    ]
    publish_trained(
        store,
        registry,
        task,
        task.train(config, examples, [], TrainRun(tmp_path / "train", show_progress=False)),
        ModelStory(name="toy"),
        config=config.model_dump(mode="json"),
        data=[DataInfo(name="d.jsonl", sha256="a" * 64, rows=len(examples))],
        evaluation=examples,
        evaluation_data=DataInfo(name="u.jsonl", sha256="b" * 64, rows=len(examples)),
    )
    artifact = optimize_model(
        store,
        registry,
        "toy",
        [StepRequest(name="forget")],
        DataFiles([write(tmp_path / "more.jsonl", "klmnopqrst")], [write(tmp_path / "unseen.jsonl", "uvwxyz")]),
        work_folder=tmp_path / "work",
        effort=QUICK,
        runtime=RuntimeConfig(threads=1),
    )
    artifact.verify()
    comparison = read_report(artifact).comparison
    assert comparison is not None
    assert comparison.primary_change.parent == 1.0
    assert comparison.primary_change.candidate == 0.5
    worst = comparison.worst_class
    assert worst is not None
    assert (worst.name, worst.candidate, worst.support) == ("card", 0.0, 6)
    assert comparison.rows.changed == 0.5
    assert [row.name for row in comparison.robustness] == ["typos", "upper case", "full width", "synonyms", "negation"]
    assert set(comparison.after.weights) == {"F32"}
    assert comparison.after.performance is not None
    assert comparison.after.performance.weights_bytes > 10_000
    assert {"figures/pareto.png", "figures/confusion.png", "report.html"} <= artifact.manifest.files.keys()
    page = artifact.path("report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
