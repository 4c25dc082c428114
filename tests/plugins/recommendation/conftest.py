"""A small world: three kinds of items, and users who like one kind each. All of it is generated."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.task import TrainRun
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.recommendation.interactions import read_examples
from taskloom.plugins.tasks.recommendation.plugin import RecommendationTask
from taskloom.plugins.tasks.recommendation.schema import TrainConfig

KINDS = ("card", "order", "hello")
ITEMS = 12
USERS = 30
"""Of each kind."""
FP32 = RuntimeConfig(precision="fp32", device="cpu", threads=1)


@dataclass(frozen=True)
class World:
    items: Path
    choices: Path


def write_csv(path: Path, *rows: tuple[str, ...]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
    return path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Item `card-3` is a card; the last item of each kind is chosen by nobody. Every user likes one kind, and has one item of
    another."""
    folder = tmp_path_factory.mktemp("world")
    rows = [
        (
            f"{kind}-{i}",
            f"the {kind} {chr(97 + i)}",
            f"我的{kind}{i}" if i % 2 else "",
            f"{kind}|item",
            "new" if i % 3 else "old",
        )
        for kind in KINDS
        for i in range(ITEMS)
    ]
    items = write_csv(folder / "items.csv", ("item", "title", "title_zh", "kind", "age"), *rows)
    draw = random.Random(5)
    choices: list[tuple[str, ...]] = []
    for n in range(USERS * len(KINDS)):
        kind = KINDS[n % len(KINDS)]
        mine = draw.sample(range(ITEMS - 1), 7)
        choices += [(f"user-{n}", f"{kind}-{i}") for i in mine]
        choices.append((f"user-{n}", f"{draw.choice([k for k in KINDS if k != kind])}-{draw.randrange(ITEMS - 1)}"))
    return World(items, write_csv(folder / "choices.csv", ("user", "item"), *choices))


@pytest.fixture(scope="session")
def settings(tiny_bert: str) -> Callable[..., TrainConfig]:
    """A `TrainConfig` for the small world."""

    def make(**changes: Any) -> TrainConfig:
        plain: dict[str, Any] = {
            "backbone": tiny_bert,
            "catalogue": {"attributes": ["kind", "age"]},
            "towers": {"dimensions": 8, "hidden": 8, "reading": 8},
            "epochs": 3,
            "batch_size": 16,
            "ridge": 30.0,
            "learning_rate": 1e-3,
            "head_learning_rate": 1e-3,
            "validation_fraction": 0.0,
            "precision": "fp32",
            "device": "cpu",
        }
        return TrainConfig.model_validate({**plain, **changes})

    return make


@pytest.fixture(scope="session")
def trained(world: World, settings: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A recommender of the small world that knows its users."""
    run = TrainRun(work_folder=tmp_path_factory.mktemp("work"), show_progress=False)
    config = settings(keep_users=True, epochs=12, learning_rate=5e-3, head_learning_rate=5e-3)
    return RecommendationTask().train(config, list(read_examples(world.choices)), [], run)


@pytest.fixture(scope="session")
def ready() -> Callable[[Any], Predictor[Any, Any, Any]]:
    """Makes a model's predictor."""
    runtime = TorchRuntime()
    return lambda model: Predictor(RecommendationTask(), model, runtime.load(model, None, runtime.plan(FP32)))


@pytest.fixture(scope="session")
def predictor(trained: Any, ready: Callable[[Any], Predictor[Any, Any, Any]]) -> Predictor[Any, Any, Any]:
    return ready(trained.model)
