"""`taskloom kb eval`: how well a knowledge base finds and answers, on questions whose answers are known. The figures are made
by the plugin that keeps knowledge bases; what is measured is what a client gets."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from taskloom.core.errors import InvalidInputError, MissingDependencyError
from taskloom.core.knowledge import Document, Hit, SearchMode
from taskloom.core.knowledge_calls import BaseInfo, KnowledgeAnswer
from taskloom.core.knowledge_figures import AnswerFigures, Gain, KnowledgeFigures, KnownQuestion
from taskloom.core.types import Frozen
from taskloom.sdk.cli.kb_render import size

if TYPE_CHECKING:
    from taskloom.core.registry import Registry
    from taskloom.sdk.cli.context import CliContext
    from taskloom.sdk.knowledge import Knowledge

SEED = 13
"""Of the sample: the same questions every time."""
MODES: tuple[SearchMode, ...] = ("dense", "sparse", "hybrid")
BUILD_BATCH = 200
BUILD_TIMEOUT_S = 3600.0
FIGURE_NAMES = {"mrr": "MRR", "ndcg@10": "nDCG@10"}


class Build(Frozen):
    """How fast documents went in: cut into passages, embedded, indexed and on stable storage."""

    documents: int
    passages: int
    seconds: float
    passages_per_s: float


class EvalReport(Frozen):
    """What `taskloom kb eval --json` prints: `base` is as it was at the end, with the sizes of its indexes."""

    base: BaseInfo
    figures: KnowledgeFigures
    build: Build | None = None
    plot: str = ""


@dataclass(frozen=True)
class ServedBase:
    """A base as a client sees it, with the `modes` to search it in; `passages` are read for an answer, `version` is asked."""

    base: Knowledge
    passages: int
    version: int | None
    modes: Sequence[SearchMode]

    def search(self, question: str, mode: SearchMode, limit: int) -> Sequence[Hit]:
        return self.base.search(question, mode=mode, limit=limit, version=self.version).hits

    def ask(self, question: str) -> KnowledgeAnswer:
        return self.base.ask(question, passages=self.passages, threshold=0.0, version=self.version)


def evaluate_base(
    cli: CliContext,
    base: Knowledge,
    path: Path,
    *,
    build: bool,
    sample: int | None,
    passages: int,
    version: int | None,
    plot: Path | None,
) -> None:
    if plot is not None and not plot.absolute().parent.is_dir():
        raise InvalidInputError(f"there is no folder {plot.absolute().parent} to draw {plot.name} into")
    questions = read_questions(cli.registry, path)
    asked = questions if sample is None else random.Random(SEED).sample(questions, min(sample, len(questions)))
    with _telling(cli) as tell:
        tell("questions")
        built = build_base(base, contexts(questions)) if build else None
        served = ServedBase(base, passages, version, modes_of(base.stats()))
        figures = judge(cli.registry, served, asked, plot, tell)
    drawn = str(plot) if plot is not None and figures.answers is not None else ""
    report = EvalReport(base=base.stats(), figures=figures, build=built, plot=drawn)
    cli.show(report, lambda: report_shown(report))


def modes_of(info: BaseInfo) -> tuple[SearchMode, ...]:
    """The ways of searching that a base has, in the order in which they are shown."""
    graph: tuple[SearchMode, ...] = ("graph",) if info.stats.graph is not None else ()
    reranked: tuple[SearchMode, ...] = ("reranked",) if info.answering.reranker else ()
    return (*MODES, *graph, *reranked)


def read_questions(registry: Registry, path: Path) -> Sequence[KnownQuestion]:
    found: Sequence[KnownQuestion] | None = None
    if registry.hooks is not None:
        found = registry.hooks.hook.read_known_questions(path=path)
    if found is None:
        raise _no_plugin()
    return found


def judge(
    registry: Registry, base: ServedBase, questions: Sequence[KnownQuestion], plot: Path | None, tell: Any
) -> KnowledgeFigures:
    found: KnowledgeFigures | None = None
    if registry.hooks is not None:
        found = registry.hooks.hook.judge_knowledge(base=base, questions=questions, plot=plot, tell=tell)
    if found is None:
        raise _no_plugin()
    return found


def _no_plugin() -> MissingDependencyError:
    return MissingDependencyError(
        "no installed plugin measures knowledge bases; install one with: pip install 'taskloom[local]'"
    )


def contexts(questions: Sequence[KnownQuestion]) -> list[Document]:
    """The texts that questions are about, each once. Raises `InvalidInputError` if the file holds none."""
    texts = dict.fromkeys(question.context for question in questions if question.context)
    if not texts:
        raise InvalidInputError(
            "the questions come without the texts that they are about, which a file in SQuAD's form has: fill the base with "
            "`taskloom kb add`, and leave out --build"
        )
    return [Document(document_id=f"context-{number:06}", text=text) for number, text in enumerate(texts, 1)]


def build_base(base: Knowledge, documents: Sequence[Document]) -> Build:
    passages, began = 0, time.perf_counter()
    for start in range(0, len(documents), BUILD_BATCH):
        passages += base.upsert(documents[start : start + BUILD_BATCH], timeout_s=BUILD_TIMEOUT_S).passages
    took = time.perf_counter() - began
    return Build(documents=len(documents), passages=passages, seconds=took, passages_per_s=passages / took)


@contextmanager
def _telling(cli: CliContext) -> Iterator[Any]:
    """What is measured now, on stderr if that is a terminal."""
    if not cli.error_console.is_terminal:
        yield lambda _: None
        return
    with cli.error_console.status("reading") as status:
        yield status.update


# -- for people ------------------------------------------------------------------------------------------------------------


def report_shown(report: EvalReport) -> RenderableType:
    figures, stats = report.figures, report.base.stats
    told = f"{report.base.base} at version {stats.version}: {stats.documents:,} documents, {stats.passages:,} passages"
    parts: list[RenderableType] = [Text(f"{told}; {figures.questions:,} questions")]
    if figures.modes:
        parts.append(modes_table(figures))
    if figures.graph_gain is not None:
        parts.append(gain_shown(figures.graph_gain))
    parts += [Text(f"{mode} was not measured: {why}", "yellow") for mode, why in figures.unmeasured.items()]
    if figures.answers is not None:
        parts.append(answers_table(figures.answers))
    indexes = ", ".join(f"{index.kind} {size(index.memory_bytes)}" for index in stats.indexes) or "none of vectors"
    facts = [f"index: {indexes}; {size(stats.disk_bytes)} on disk"]
    if report.build is not None:
        facts.append(f"build: {report.build.passages:,} passages in {report.build.seconds:.1f} s, {_rate(report.build)}")
    if report.plot:
        facts.append(f"risk and coverage: {report.plot}")
    return Group(*parts, *(Text(fact) for fact in facts))


def _rate(build: Build) -> str:
    return f"{build.passages_per_s:.1f} passages/s"


def modes_table(figures: KnowledgeFigures) -> Table:
    """The ways of searching side by side; intervals are 95%."""
    names = list(next(iter(figures.modes.values())).metrics)
    table = _table("search", [FIGURE_NAMES.get(name, name) for name in names])
    for mode, found in figures.modes.items():
        table.add_row(mode, *(_with_interval(found.metrics, found.intervals, name) for name in names), *_latency(found))
    return table


def gain_shown(gain: Gain) -> Text:
    """With the graph less without it."""
    told = (f"{FIGURE_NAMES.get(name, name)} {_difference(gain, name)}" for name in gain.metrics)
    return Text(f"graph less hybrid: {', '.join(told)}")


def _difference(gain: Gain, name: str) -> str:
    low, high = gain.intervals[name]
    return f"{gain.metrics[name]:+.3f} ({low:+.3f} to {high:+.3f})"


def answers_table(answers: AnswerFigures) -> Table:
    table = _table("answers", ["F1", "exact match", "calibration error"])
    rates = (_with_interval(answers.metrics, answers.intervals, name) for name in ("f1", "exact_match"))
    table.add_row("end to end", *rates, f"{answers.expected_calibration_error:.3f}", *_latency(answers))
    return table


def _table(first: str, figures: Sequence[str]) -> Table:
    from rich import box

    table = Table(first, box=box.SIMPLE_HEAD)
    for name in (*figures, "p50 ms", "p99 ms"):
        table.add_column(name, justify="right")
    return table


def _with_interval(metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]], name: str) -> str:
    low, high = intervals[name]
    return f"{metrics[name]:.3f} ({low:.3f}–{high:.3f})"


def _latency(found: Any) -> tuple[str, str]:
    return f"{1e3 * found.p50_s:.0f}", f"{1e3 * found.p99_s:.0f}"
