"""Every optimizer on the model of every task in the box: 24 cells, the chain of three, what the targets say of them, and the
same for the Chinese models.

    python benchmarks/optimizers.py --data FOLDER --home FOLDER [--models intent-en,...] [--cells prune,...] [--table]

`--data` holds the folders that the recipes name (`banking77/train.jsonl`, say). Each cell is one `taskloom optimize`, measured
beside its parent in one run; what is done is kept in `--home`, so that an interrupted benchmark goes on. Recovery trains on a
sample where all rows would take hours: the table says on how many. What is kept was made with the settings of its day: after
they change, take another folder or take the alias of the cell away.

Parents, and candidates that torch runs, compute in `--precision` (fp32); what was quantized for another runtime computes in
what that does best. A cell whose parent ran in another precision or with weights laid out otherwise is measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskloom.core.artifact import Artifact
from taskloom.core.comparing import Comparing
from taskloom.core.comparison import Comparison
from taskloom.core.errors import NotFoundError, TaskloomError, UnsupportedError
from taskloom.core.loader import load_registry
from taskloom.core.optimizing import StepRequest
from taskloom.core.performance import Effort
from taskloom.core.publishing import Report, measure, read_report
from taskloom.core.registry import Registry
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore, open_store
from taskloom.plugins.commands.recipe import Recipe, load_recipe
from taskloom.plugins.optimizing import SEED, DataFiles, optimize_model, read_rows
from taskloom.plugins.optimizing_work import shared_folder, shared_work
from taskloom.plugins.runtimes.torch import TorchRuntime

RECIPES = Path(__file__).parents[1] / "models" / "recipes"
ROBUSTNESS_ROWS = 8
"""Fewer than `taskloom optimize` takes: no table here shows them."""


@dataclass(frozen=True)
class Subject:
    """A bundled model, the rows that its cells train on and are evaluated on (0: all), and what it needs of a step beside the
    step's defaults."""

    model: str
    train_rows: int = 0
    evaluation_rows: int = 0
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    layers_out: int = 2
    """How many layers a smaller student is without."""
    has_vocabulary: bool = True


SUBJECTS = (
    Subject("intent-en"),
    Subject("ner-en", 0, 800),
    Subject("qa-en", 4000, 500),
    Subject("summary-en", 1200, 300),
    # Most requests are histories, which read no text: an epoch is enough to train what reads texts.
    Subject("recommend-anime", 0, 1000, {"lora": {"epochs": 1}}),
    # It has neither layers nor a vocabulary of which some could go, and stands on no backbone: adapter and full training begin
    # with the trained network.
    Subject("vision-fashion", 16000, 3000, {"lora": {"start": "model"}}, layers_out=0, has_vocabulary=False),
)

CHINESE = (Subject("topic-zh", layers_out=1), Subject("ner-zh", layers_out=1), Subject("qa-zh", 1000, 500, layers_out=1))
"""The tasks that have a Chinese model as well: in the table of cells, not in the medians over the six tasks."""

SMALLER = StepRequest(name="prune", config={"share": 0.4, "epochs": 0})
"""Makes a student that takes 0.4 of its teacher's time: without the layers that matter least, and narrower. What trains it is
the next step. Of two layers as wide as the teacher's it is as fast and answers far more like it."""
VOCABULARY = StepRequest(name="prune", config={"share": 1, "vocabulary": "seen", "epochs": 0})

CELLS: Mapping[str, tuple[StepRequest, ...]] = {
    "quantize-static": (StepRequest(name="quantize", config={"mode": "static"}),),
    "quantize-dynamic": (StepRequest(name="quantize", config={"mode": "dynamic"}),),
    "distill": (SMALLER, StepRequest(name="distill")),
    "prune": (StepRequest(name="prune"),),
    "lora": (StepRequest(name="lora", config={"start": "backbone"}),),
    "full": (StepRequest(name="lora", config={"start": "backbone", "method": "full"}),),
    "chain": (
        SMALLER,
        StepRequest(name="distill"),
        VOCABULARY,
        StepRequest(name="quantize", config={"mode": "static"}),
    ),
}


@dataclass(frozen=True)
class Cell:
    """One optimizer on one model: a report, or the reason why there is none."""

    model: str
    cell: str
    report: Report | None = None
    steps: Sequence[Mapping[str, Any]] = ()
    why_not: str = "not made"

    @property
    def comparison(self) -> Comparison:
        assert self.report is not None
        assert self.report.comparison is not None
        return self.report.comparison

    def fact(self, step: str, name: str) -> float | str:
        """What the last step of that name says of itself."""
        told = [done["facts"] for done in self.steps if done["name"] == step and name in done.get("facts", {})]
        return float(told[-1][name]) if told else f"{step} says no {name}"


Cells = Mapping[str, Cell]
"""The cells of one model, by name."""
Figure = Callable[[Cell, Cells], float | str]
"""A cell's figure, or why it has none."""


def _quality(cell: Cell, _: Cells) -> float | str:
    """The metric as a share of the parent's; the other way round where less is better."""
    told = cell.comparison.primary_change
    return _share(told.candidate, told.parent, told.higher_is_better)


def _size(cell: Cell, _: Cells) -> float | str:
    return cell.comparison.size_ratio


def _speed(batch: int) -> Figure:
    """How many times as fast as the parent, by processor time: the geometric mean over short and long inputs."""

    def speed(cell: Cell, _: Cells) -> float | str:
        return statistics.geometric_mean([1 / ratio.cpu for ratio in cell.comparison.latency if ratio.batch == batch])

    return speed


def _of_full(cell: Cell, cells: Cells) -> float | str:
    """The metric as a share of what training all weights on the same rows gives."""
    full = cells["full"]
    if full.report is None or cell.report is None:
        return f"full: {full.why_not}"
    if full.report.evaluation_data.sha256 != cell.report.evaluation_data.sha256 or _trained(full) != _trained(cell):
        return "full: of other rows"
    told, other = cell.comparison.primary_change, full.comparison.primary_change
    return _share(told.candidate, other.candidate, told.higher_is_better)


def _share(of: float, whole: float, higher_is_better: bool) -> float | str:
    over, under = (of, whole) if higher_is_better else (whole, of)
    return over / under if under else "a metric of 0"


@dataclass(frozen=True)
class Target:
    """A row of the table of targets: the median over the tasks, and the worst task."""

    cell: str
    figure: str
    value: Figure
    median: float
    worst: float | None = None
    at_most: bool = False


TARGETS = (
    Target("quantize-static", "quality", _quality, 0.995, 0.99),
    Target("quantize-static", "size", _size, 0.27, at_most=True),
    Target("quantize-static", "speed, batch 1", _speed(1), 5),
    Target("quantize-static", "speed, batch 8", _speed(8), 7),
    Target("quantize-dynamic", "quality", _quality, 0.995, 0.99),
    Target("quantize-dynamic", "size", _size, 0.27, at_most=True),
    Target("quantize-dynamic", "speed, batch 1", _speed(1), 3),
    Target("quantize-dynamic", "speed, batch 8", _speed(8), 3),
    Target("distill", "quality", _quality, 0.988, 0.97),
    Target("distill", "speed, batch 1", _speed(1), 2),
    Target("distill", "speed, batch 8", _speed(8), 2),
    Target("prune", "quality", _quality, 0.99, 0.98),
    Target("prune", "speed, batch 1", _speed(1), 1.8),
    Target("prune", "speed, batch 8", _speed(8), 1.8),
    Target("lora", "metric, share of full", _of_full, 0.99, 0.98),
    Target("lora", "trained share", lambda cell, _: cell.fact("lora", "trainable_share"), 0.01, 0.01, at_most=True),
    Target("lora", "adapter, MB", lambda cell, _: _megabytes(cell.fact("lora", "adapter_bytes")), 2, 2, at_most=True),
    Target("lora", "speed, batch 1", _speed(1), 1),
    Target("chain", "quality", _quality, 0.98, 0.96),
    Target("chain", "size", _size, 0.15, at_most=True),
    Target("chain", "speed, batch 1", _speed(1), 15),
    Target("chain", "speed, batch 8", _speed(8), 15),
)


def _megabytes(told: float | str) -> float | str:
    return told if isinstance(told, str) else told / 1e6


def main() -> None:
    asked = _arguments()
    settings = Settings(home=asked.home)
    store = open_store(settings.models_folder)
    registry = load_registry()
    subjects = [subject for subject in (*SUBJECTS, *CHINESE) if subject.model in asked.models]
    if not asked.table:
        for subject in subjects:
            _make_all(store, registry, subject, asked)
    found = {subject.model: {name: _found(store, asked, subject, name) for name in CELLS} for subject in subjects}
    print("\n".join(_cell_table([cells[name] for cells in found.values() for name in asked.cells])), end="\n\n")
    tasks = {subject.model: found[subject.model] for subject in SUBJECTS if subject.model in found}
    print("\n".join(_target_table(tasks, asked.cells)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder that holds the data folders which the recipes name")
    parser.add_argument("--home", type=Path, required=True, help="folder for the models that are made")
    parser.add_argument("--models", type=_listed, default=[subject.model for subject in (*SUBJECTS, *CHINESE)])
    parser.add_argument("--cells", type=_listed, default=list(CELLS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of all that torch runs")
    parser.add_argument("--table", action="store_true", help="make nothing, print what there is")
    return parser.parse_args()


def _listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _make_all(store: ModelStore, registry: Registry, subject: Subject, asked: argparse.Namespace) -> None:
    """The cells of a model that are missing. Steps with which several of them begin are made once."""
    missing = [name for name in asked.cells if _is_missing(store, asked, subject, name)]
    if not missing:
        return
    recipe = load_recipe(RECIPES / f"{subject.model}.toml")
    data = DataFiles(
        train=_placed(recipe, "train", asked.data),
        evaluation=_placed(recipe, "evaluation", asked.data),
        licence=recipe.data.licence,
        source=recipe.data.source,
        train_rows=subject.train_rows,
        evaluation_rows=subject.evaluation_rows,
    )
    parent = store.resolve(f"{subject.model}@1")
    rows = read_rows(registry.tasks.get(parent.manifest.task), data, SEED)
    with shared_work(shared_folder(_work(asked.home), parent, rows.identity)):
        for name in missing:
            _make(Making(store, registry, subject, data, asked), name)


def _is_missing(store: ModelStore, asked: argparse.Namespace, subject: Subject, name: str) -> bool:
    told = _reason(asked.home, subject.model, name)
    return _found(store, asked, subject, name).report is None and not (told.exists() and "refused" in _read(told))


def _work(home: Path) -> Path:
    return home / "optimizing"


@dataclass(frozen=True)
class Making:
    """What the cells of a model are made with."""

    store: ModelStore
    registry: Registry
    subject: Subject
    data: DataFiles
    asked: argparse.Namespace


def _make(making: Making, name: str) -> None:
    store, subject, asked = making.store, making.subject, making.asked
    told = _reason(asked.home, subject.model, name)
    began = time.perf_counter()
    told.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            made = store.resolve(f"{subject.model}@{name}")
            _again(asked, subject.model, name).write_text(
                _measured_again(making, made).model_dump_json(indent=1), encoding="utf-8"
            )
        except NotFoundError:
            optimize_model(
                store,
                making.registry,
                f"{subject.model}@1",
                _steps(subject, name),
                making.data,
                work_folder=_work(asked.home),
                aliases=(name,),
                runtime=_runtime(asked),
                effort=Effort(robustness_rows=ROBUSTNESS_ROWS),
                on_event=_say,
            )
    except TaskloomError as exc:
        kind = "refused" if isinstance(exc, UnsupportedError) else "failed"
        told.write_text(json.dumps({kind: exc.message}), encoding="utf-8")
        print(f"{subject.model} {name}: {kind}: {exc.message}", flush=True)
    else:
        told.unlink(missing_ok=True)
        cell = _found(store, asked, subject, name)
        quality = _quality(cell, {})
        took, shown = time.perf_counter() - began, quality if isinstance(quality, str) else f"{quality:.4f}"
        size = cell.comparison.size_ratio
        print(f"{subject.model} {name}: {took:.0f} s, quality {shown}, size {size:.3f}", flush=True)


def _runtime(asked: argparse.Namespace) -> RuntimeConfig:
    return RuntimeConfig(device="cpu", threads=asked.threads, precision=asked.precision, precision_of="torch")


def _measured_again(making: Making, artifact: Artifact) -> Report:
    """A new report of a version that was published."""
    store, registry, asked = making.store, making.registry, making.asked
    known = artifact.manifest
    print(f"{artifact.name} is measured again", flush=True)
    task = registry.tasks.get(known.task)
    rows = read_rows(task, making.data, SEED)
    assert known.parent is not None
    parent = store.resolve(f"{known.parent.model}@{known.parent.version}")
    with tempfile.TemporaryDirectory(dir=asked.home) as folder:
        copied = Path(folder) / "artifact"
        shutil.copytree(artifact.folder, copied)
        report = measure(
            copied,
            known,
            registry,
            task,
            evaluation=rows.evaluation,
            evaluation_data=rows.evaluation_data,
            runtime=_runtime(asked),
        )
        comparing = Comparing(store, registry, parent, rows.evaluation, runtime=_runtime(asked))
        comparison = comparing.compare(Artifact.open(copied), report.evaluation)
    return report.model_copy(update={"comparison": comparison})


def _steps(subject: Subject, name: str) -> list[StepRequest]:
    steps = [step for step in CELLS[name] if step is not VOCABULARY or subject.has_vocabulary]
    found = []
    for step in steps:
        out = {"layers": subject.layers_out} if step is SMALLER else {}
        found.append(step.model_copy(update={"config": {**step.config, **out, **subject.settings.get(step.name, {})}}))
    return found


def _placed(recipe: Recipe, part: str, folder: Path) -> list[Path]:
    return [folder / path.relative_to(RECIPES) for path in getattr(recipe.data, part)]


def _say(event: Mapping[str, Any]) -> None:
    if event["event"] in {"optimizer", "kept", "epoch", "compare"}:
        told = ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in event.items())
        print(f"  {time.strftime('%H:%M:%S')} {told}", flush=True)


def _reason(home: Path, model: str, name: str) -> Path:
    """Why a cell has no report: `refused` for good, or `failed` the last time."""
    return home / "refused" / f"{model}.{name}.json"


def _again(asked: argparse.Namespace, model: str, name: str) -> Path:
    place: Path = asked.home / "measured" / asked.precision / f"{model}.{name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _read(path: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _found(store: ModelStore, asked: argparse.Namespace, subject: Subject, name: str) -> Cell:
    """A cell with the report whose parent computed in the precision that is asked for, if there is one."""
    told, again = _reason(asked.home, subject.model, name), _again(asked, subject.model, name)
    why_not = "; ".join(f"{kind}: {reason}" for kind, reason in _read(told).items()) if told.exists() else "not made"
    try:
        artifact = store.resolve(f"{subject.model}@{name}")
    except NotFoundError:
        return Cell(subject.model, name, why_not=why_not)
    steps = [step.model_dump(mode="json") for step in artifact.manifest.steps]
    report = Report.model_validate_json(again.read_bytes()) if again.exists() else read_report(artifact)
    if report.comparison is None or report.comparison.before.plan.precision != asked.precision:
        return Cell(subject.model, name, why_not=f"not measured with its parent in {asked.precision}")
    packs = TorchRuntime().plan(_runtime(asked)).packed
    if not asked.table and report.comparison.before.plan.packed != packs:  # a table may be of another machine
        return Cell(subject.model, name, why_not=f"measured with weights {'as they are' if packs else 'packed'}")
    return Cell(subject.model, name, report, steps)


def _cell_table(cells: Sequence[Cell]) -> Iterator[str]:
    yield "| model | step | metric | parent | this | difference (95%) | size | batch 1 | batch 8 | memory | rows | precision |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for cell in cells:
        if cell.report is None:
            yield f"| {cell.model} | {cell.cell} | {cell.why_not} | | | | | | | | | |"
            continue
        told, own = cell.comparison.primary_change, cell.comparison
        between = "" if told.low is None or told.high is None else f" ({told.low:+.3f} to {told.high:+.3f})"
        memory = _ratio(own.after.performance, own.before.performance)
        figures = (
            f"{told.name} | {told.parent:.3f} | {told.candidate:.3f} | {told.difference:+.3f}{between}",
            f"{own.size_ratio:.3f} | {_speeds(cell, 1)} | {_speeds(cell, 8)} | {memory}",
            f"{_trained(cell)}/{cell.comparison.rows.rows}",
            f"{own.before.plan.precision}; {own.after.plan.precision} ({own.after.plan.runtime})",
        )
        yield " | ".join((f"| {cell.model} | {cell.cell}", *figures)) + " |"


def _ratio(after: Any, before: Any) -> str:
    return f"{after.peak_rss_bytes / before.peak_rss_bytes:.2f}" if after and before else ""


def _speeds(cell: Cell, batch: int) -> str:
    return ", ".join(f"{1 / ratio.cpu:.2f}" for ratio in cell.comparison.latency if ratio.batch == batch)


def _trained(cell: Cell) -> int:
    """On how many rows the optimizers trained, recovery included."""
    told = [step.get("facts", {}) for step in cell.steps if step["name"] != "train"]
    return max((int(facts.get("rows") or (facts.get("recovery") or {}).get("rows", 0)) for facts in told), default=0)


def _target_table(found: Mapping[str, Cells], asked: Sequence[str]) -> Iterator[str]:
    """Every target of the cells that were asked for: what was found, and why a task has no figure."""
    yield "| step | figure | target (median; worst) | median | worst | met | each | without a figure |"
    yield "|---|---|---|---|---|---|---|---|"
    for target in (target for target in TARGETS if target.cell in asked):
        told = {
            model: target.value(cells[target.cell], cells) if cells[target.cell].report else cells[target.cell].why_not
            for model, cells in found.items()
        }
        values = {model: value for model, value in told.items() if isinstance(value, float | int)}
        missing = "; ".join(f"{model}: {value}" for model, value in told.items() if isinstance(value, str))
        bound = ("at most " if target.at_most else "at least ") + f"{target.median:g}"
        bound += f"; {target.worst:g}" if target.worst is not None else ""
        measured = _measured(target, list(values.values())) if values else " |  | "
        each = ", ".join(f"{model} {value:.3f}" for model, value in values.items())
        yield f"| {target.cell} | {target.figure} | {bound} | {measured} | {each} | {missing} |"


def _measured(target: Target, values: Sequence[float]) -> str:
    median, worst = statistics.median(values), max(values) if target.at_most else min(values)
    bounds = [(median, target.median), *([(worst, target.worst)] if target.worst is not None else [])]
    met = all(value <= bound if target.at_most else value >= bound for value, bound in bounds)
    return f"{median:.3f} | {worst:.3f} | {'yes' if met else 'no'}"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
