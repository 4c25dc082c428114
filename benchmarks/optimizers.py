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
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optimizer_tables import Cell, cell_table, quality, target_table

from taskloom.core.artifact import Artifact
from taskloom.core.comparing import Comparing
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
    rows_of: Mapping[str, int] = field(default_factory=dict)
    """Training rows of the cells that have others."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    layers_out: int = 2
    """How many layers a smaller student is without."""
    has_vocabulary: bool = True
    longest: int = 0
    """Characters of a training row's document, where longer ones would take hours; 0: any."""


FEW = {"lora": 4000, "full": 4000}
"""They begin with the bare backbone, and go through their rows more often."""

SUBJECTS = (
    Subject("intent-en"),
    Subject("ner-en", 0, 800),
    # A reader learns more from other rows than from the same ones again: twice through 36 000 costs what six times 11 000 does.
    Subject("qa-en", 12000, 1000, {**FEW, "distill": 40000, "chain": 40000}, settings={"distill": {"epochs": 2}}),
    Subject("summary-en", 1200, 300),
    # Most requests are histories, which read no text: an epoch is enough to train what reads texts.
    Subject("recommend-anime", 0, 1000, settings={"lora": {"epochs": 1}}),
    # It has neither layers nor a vocabulary of which some could go, and stands on no backbone: adapter and full training begin
    # with the trained network.
    Subject("vision-fashion", 16000, 3000, settings={"lora": {"start": "model"}}, layers_out=0, has_vocabulary=False),
)

CHINESE = (
    Subject("topic-zh", layers_out=1),
    Subject("ner-zh", layers_out=1),
    Subject("qa-zh", 12000, 0, FEW, layers_out=1),
    Subject("summary-zh", 700, layers_out=1, longest=1500),
)
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
    print("\n".join(cell_table([cells[name] for cells in found.values() for name in asked.cells])), end="\n\n")
    tasks = {subject.model: found[subject.model] for subject in SUBJECTS if subject.model in found}
    print("\n".join(target_table(tasks, asked.cells)))


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
    groups: dict[int, list[str]] = {}
    for name in asked.cells:
        if _is_missing(store, asked, subject, name):
            groups.setdefault(subject.rows_of.get(name, subject.train_rows), []).append(name)
    for rows, names in groups.items():
        _make_group(store, registry, replace(subject, train_rows=rows), asked, names)


def _make_group(
    store: ModelStore, registry: Registry, subject: Subject, asked: argparse.Namespace, names: Sequence[str]
) -> None:
    recipe = load_recipe(RECIPES / f"{subject.model}.toml")
    data = DataFiles(
        train=_short(_placed(recipe, "train", asked.data), subject, asked.home),
        evaluation=_placed(recipe, "evaluation", asked.data),
        licence=recipe.data.licence,
        source=recipe.data.source,
        train_rows=subject.train_rows,
        evaluation_rows=subject.evaluation_rows,
    )
    parent = store.resolve(f"{subject.model}@1")
    rows = read_rows(registry.tasks.get(parent.manifest.task), data, SEED)
    with shared_work(shared_folder(_work(asked.home), parent, rows.identity)):
        for name in names:
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
        kept = quality(cell, {})
        took, shown = time.perf_counter() - began, kept if isinstance(kept, str) else f"{kept:.4f}"
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


def _short(files: list[Path], subject: Subject, home: Path) -> list[Path]:
    """The files without the documents that are too long."""
    if not subject.longest:
        return files
    folder = home / "rows" / subject.model
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for path in files:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        short = [f"{line}\n" for line in lines if len(json.loads(line)["document"]) <= subject.longest]
        found.append(folder / f"{path.parent.name}-{path.name}")
        found[-1].write_text("".join(short), encoding="utf-8")
    return found


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


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
