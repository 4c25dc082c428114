"""The built-in plugins: everything that `taskloom.plugins` registers, through the hooks that any plugin uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from taskloom.core.hookspecs import CommandSpec, hookimpl
from taskloom.core.knowledge import Document, Refused, RetrieverPlugin
from taskloom.core.knowledge_figures import AskedBase, KnowledgeFigures, KnownQuestion
from taskloom.core.optimizer import OptimizerPlugin
from taskloom.core.runtime import RuntimePlugin
from taskloom.core.task import TaskPlugin
from taskloom.plugins.optimizers.distill.plugin import DistillOptimizer
from taskloom.plugins.optimizers.lora.plugin import LoraOptimizer
from taskloom.plugins.optimizers.prune.plugin import PruneOptimizer
from taskloom.plugins.optimizers.quantize.plugin import QuantizeOptimizer
from taskloom.plugins.retrieval.plugin import FaissRetriever
from taskloom.plugins.runtimes.onnx import OnnxRuntime
from taskloom.plugins.runtimes.openvino import OpenVinoRuntime
from taskloom.plugins.runtimes.python import PythonRuntime
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.classification.plugin import ClassificationTask
from taskloom.plugins.tasks.embedding.plugin import EmbeddingTask
from taskloom.plugins.tasks.fill_mask.plugin import FillMaskTask
from taskloom.plugins.tasks.ner.plugin import NerTask
from taskloom.plugins.tasks.qa.plugin import QaTask
from taskloom.plugins.tasks.recommendation.plugin import RecommendationTask
from taskloom.plugins.tasks.relation.plugin import RelationTask
from taskloom.plugins.tasks.summarization.plugin import SummarizationTask
from taskloom.plugins.tasks.vision.plugin import VisionTask


@hookimpl
def register_tasks(register: Callable[[TaskPlugin[Any, Any, Any]], None]) -> None:
    register(ClassificationTask())
    register(QaTask())
    register(VisionTask())
    register(NerTask())
    register(SummarizationTask())
    register(RecommendationTask())
    register(EmbeddingTask())
    register(RelationTask())
    register(FillMaskTask())


@hookimpl
def register_runtimes(register: Callable[[RuntimePlugin], None]) -> None:
    register(TorchRuntime())
    register(PythonRuntime())
    register(OnnxRuntime())
    register(OpenVinoRuntime())


@hookimpl
def register_optimizers(register: Callable[[OptimizerPlugin], None]) -> None:
    register(QuantizeOptimizer())
    register(DistillOptimizer())
    register(LoraOptimizer())
    register(PruneOptimizer())


@hookimpl
def register_retrievers(register: Callable[[RetrieverPlugin], None]) -> None:
    register(FaissRetriever())


@hookimpl
def read_documents(paths: Sequence[Path]) -> Iterator[Document | Refused]:
    from taskloom.plugins.retrieval.documents.reading import read_documents as read

    return read(paths)


@hookimpl
def read_known_questions(path: Path) -> Sequence[KnownQuestion]:
    from taskloom.plugins.retrieval.evaluation import read_questions

    return list(read_questions(path))


@hookimpl
def judge_knowledge(
    base: AskedBase, questions: Sequence[KnownQuestion], plot: Path | None, tell: Callable[[str], None]
) -> KnowledgeFigures:
    from taskloom.plugins.retrieval.evaluation import judge

    return judge(base, questions, plot, tell)


@hookimpl
def register_commands(register: Callable[[CommandSpec], None]) -> None:
    commands = "taskloom.plugins.commands"
    register(CommandSpec(name="train", summary="Train a model from a recipe.", target=f"{commands}.train:train"))
    register(CommandSpec(name="eval", summary="Evaluate a model on a data file.", target=f"{commands}.evaluate:evaluate"))
    register(CommandSpec(name="optimize", summary="Make a smaller or faster version.", target=f"{commands}.optimize:optimize"))
    items = "taskloom.plugins.tasks.recommendation.commands:items"
    register(CommandSpec(name="items", summary="Change the items of a recommender; hold out interactions.", target=items))
    questions = "taskloom.plugins.tasks.qa.commands:questions"
    register(
        CommandSpec(name="questions", summary="Make questions from plain text to begin a reader's training.", target=questions)
    )
