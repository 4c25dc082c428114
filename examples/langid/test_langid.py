"""langid keeps the promises of the task contract. Run it with: pytest examples/langid"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from taskloom_langid import LangidConfig, LangidTask

from taskloom.core.loader import load_registry
from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig, RuntimePlugin
from taskloom.core.task import TrainRun
from taskloom.core.testing import TaskConformance

DATA = Path(__file__).parent / "data"


class TestLangid(TaskConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls) -> LangidTask:
        return LangidTask()

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> RuntimePlugin:
        return load_registry().runtimes.get("python")

    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, task: LangidTask, runtime: RuntimePlugin, tmp_path_factory: Any) -> Predictor[Any, Any, Any]:
        rows = list(task.read_examples(DATA / "train.jsonl"))
        trained = task.train(LangidConfig(), rows, [], TrainRun(work_folder=tmp_path_factory.mktemp("training")))
        return Predictor(task, trained.model, runtime.load(trained.model, None, runtime.plan(RuntimeConfig())))
