"""The table that `taskloom advise` and docs/choosing.md answer from: what models are worth, what they take, how fast they are.

    python benchmarks/selection.py                                                   every model in the box, and the docs
    python benchmarks/selection.py --store ~/.taskloom/models --models ner-zh-bilstm-msra    a model that a recipe here made
    python benchmarks/selection.py --docs                                            the docs alone, from the table as it is

It writes models/measured.json; rows of models that are not measured now stay. Quality is what the models' reports say. Speed
and memory are measured here, on one thread, in a process for each model and precision, over rows of tests/data, or the examples
that a model carries where there are none for its task. Speed is processor time, which hardly minds what else the machine does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import random
import re
import shlex
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from choosing_tables import write_docs

from taskloom.core.artifact import Artifact
from taskloom.core.comparison import model_bytes, quantile
from taskloom.core.errors import TaskloomError, UnsupportedError
from taskloom.core.loader import load_registry
from taskloom.core.performance import chosen_inputs
from taskloom.core.performance_worker import peak_rss_bytes
from taskloom.core.predictor import Predictor, load_predictor
from taskloom.core.publishing import read_report, this_machine
from taskloom.core.registry import Registry
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.selection import (
    TABLE,
    CallTimes,
    MachineFacts,
    MeasuredModel,
    MeasuredTable,
    Quality,
    Remedy,
    Speed,
    Tier,
    read_table,
)
from taskloom.core.store import ModelStore
from taskloom.core.task import Example, TaskModel, TaskPlugin
from taskloom.core.types import ModelDescription, ModelInfo, ModelRef
from taskloom.plugins.backbones.loading import find_backbone
from taskloom.plugins.runtimes.machine import bf16_instructions
from taskloom.plugins.tasks.qa.cloze import cloze_questions
from taskloom.sdk.cli.inputs import InputForm, Kind

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
BOX = ROOT / "models"
SAMPLES = ROOT / "tests" / "data"
RECIPES = ("models/recipes/*.toml", "benchmarks/*/*.toml")
CALLS, WARM_UP = 32, 2
LIBRARIES = ("torch", "transformers", "transformers.models.bert.modeling_bert", "peft")
PRECISIONS = ("bf16", "fp32")
THREADS = 1
BATCH = 8
CHINESE = "zhwiki-law-sample.txt"
ROWS = {
    "classification": ("banking77-sample.jsonl",),
    "ner": ("wikigold-sample.jsonl",),
    "qa": ("squadshifts-sample.json",),
    "relation": ("semeval2010-sample.jsonl",),
    "summarization": ("wikinews-sample.jsonl", "scitldr-sample.jsonl"),
    "vision": ("fashion-mnist-sample/rows.jsonl",),
    "fill-mask": (CHINESE,),
}
"""Of tests/data, by task."""
DATA = {
    "ner-en": "WNUT17, BTC, WikiGold",
    "zero-shot-en": "BANKING77",
    "summary-en": "Wikinews, SciTLDR",
    "backbone-zh": "Wikipedia, statutes",
    "recommend-anime": "Anime Recommendations",
}
"""What the rows are called, where the report's source begins with something else."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="where models lie that recipes of this repository made")
    parser.add_argument("--models", nargs="*", default=(), help="these alone; else all of the store")
    parser.add_argument(
        "--speeds", nargs="*", default=PRECISIONS, choices=PRECISIONS, help="these alone; the others stay as they are"
    )
    parser.add_argument("--docs", action="store_true", help="measure nothing, write the docs from the table")
    arguments = parser.parse_args()
    path = BOX / TABLE
    table = read_table(path) if path.exists() else None
    if not arguments.docs:
        store = ModelStore([arguments.store or BOX])
        for name in arguments.models or store.models():
            artifact = store.resolve(ModelRef(name=name, version=store.versions(name)[-1]))
            table = with_model(table, artifact, arguments.speeds, bundled=arguments.store is None)
            path.write_text(table.model_dump_json(indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {table.model(name).model_dump_json()}", flush=True)
    if table is not None:
        write_docs(table, ROOT / "docs")


def with_model(table: MeasuredTable | None, artifact: Artifact, precisions: Sequence[str], *, bundled: bool) -> MeasuredTable:
    """The table with a model measured anew, and without those that have left the box."""
    registry, name = load_registry(), artifact.manifest.model
    machines = dict(table.machines) if table else {}
    known = {model.name: model for model in table.models} if table else {}
    found = dict(known[name].speeds) if name in known else {}
    able = [precision for precision in precisions if precision == "fp32" or bf16_instructions()]
    for precision in able:
        label = f"cpu-{precision}"
        machines[label] = _same_machine(machines.get(label), precision)
        found[label], made_of = in_a_child(looked_at, registry, artifact, precision)
    if not able:
        _, made_of = in_a_child(looked_at, registry, artifact, "")
    known[name] = measured_model(registry, artifact, found, made_of, bundled=bundled)
    in_the_box = set(ModelStore([BOX]).models())
    rows = [model for model in known.values() if not model.bundled or model.name in in_the_box]
    order = sorted(rows, key=lambda model: (model.task, not model.bundled, model.name))
    return MeasuredTable(machines=machines, models=tuple(order), remedies=tuple(remedies()))


def in_a_child(make: Callable[..., T], *arguments: object) -> T:
    """What it makes in a process of its own, which begins with the libraries loaded and no model."""
    for library in LIBRARIES:
        importlib.import_module(library)
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("fork"), initializer=_take, initargs=(make, arguments)
    ) as child:
        return child.submit(_make).result()


_TAKEN: list[Any] = []


def _take(make: Callable[..., T], arguments: tuple[object, ...]) -> None:
    """A fork has them without pickling."""
    _TAKEN[:] = [make, arguments]


def _make() -> Any:
    make, arguments = _TAKEN
    return make(*arguments)


Anatomy = tuple[int, tuple[str, ...]]
"""How many numbers a model has, adapters merged into what they change, and which optimizers can do something for it."""


def looked_at(registry: Registry, artifact: Artifact, precision: Any) -> tuple[Speed | None, Anatomy]:
    """With no precision, nothing is timed."""
    config = RuntimeConfig(device="cpu", precision=precision or "fp32", threads=THREADS)
    predictor = load_predictor(registry, artifact, config)
    timed = speed(registry, artifact, predictor) if precision else None
    return timed, anatomy(registry, artifact, predictor.model)


def speed(registry: Registry, artifact: Artifact, predictor: Predictor[Any, Any, Any]) -> Speed:
    load, task = os.getloadavg()[0], predictor.task
    chosen = chosen_inputs(task, rows_for(registry, artifact))
    inputs = {name: [task.Input.model_validate(raw) for raw in raws] for name, raws in chosen.items()}
    single = {name: _calls(predictor, own, 1, CALLS) for name, own in inputs.items()}
    short, long = ("alike", "alike") if "alike" in inputs else ("short", "long")
    together = _calls(predictor, inputs[short], BATCH, CALLS // 4)
    return Speed(
        short=single[short],
        long=single[long],
        batch=BATCH,
        items_per_s=BATCH / together.p50_s,
        peak_rss_bytes=peak_rss_bytes(),
        load=round(load, 2),
        measured=datetime.now(UTC).date().isoformat(),
    )


def _calls(predictor: Predictor[Any, Any, Any], inputs: Sequence[Any], batch: int, calls: int) -> CallTimes:
    """Processor time of calls that go round the inputs, after two that warm up."""
    took = []
    for number in range(-WARM_UP, calls):
        rows = [inputs[(number * batch + i) % len(inputs)] for i in range(batch)]
        began = time.process_time()
        answers = predictor.predict(rows)
        took.append(time.process_time() - began)
        for answer in answers:
            if isinstance(answer, TaskloomError):
                raise answer
    timed, params = sorted(took[WARM_UP:]), predictor.task.Params()
    tokens = sum(predictor.task.cost(one, params) for one in inputs) / len(inputs)
    return CallTimes(p50_s=quantile(timed, 0.5), p99_s=quantile(timed, 0.99), calls=calls, tokens=round(tokens, 1))


def measured_model(
    registry: Registry, artifact: Artifact, speeds: Mapping[str, Speed], made_of: Anatomy, *, bundled: bool
) -> MeasuredModel:
    manifest = artifact.manifest
    recipe = recipe_of(manifest.model)
    train = next(step.config for step in manifest.steps if step.name == "train")
    own_backbone = any(name.startswith("backbone/") for name in manifest.files)
    shared = manifest.backbone if manifest.backbone and not own_backbone else None
    count, optimizers = made_of
    update = f"python benchmarks/selection.py --models {manifest.model}"
    return MeasuredModel(
        name=manifest.model,
        version=manifest.version,
        task=manifest.task,
        languages=manifest.languages,
        description=manifest.description,
        bundled=bundled,
        recipe=recipe,
        backbone=shared.id if shared else "",
        network="" if shared else network_told(train.get("network") or {}),
        size_bytes=model_bytes(manifest),
        backbone_bytes=backbone_bytes(shared.id, shared.digest) if shared else 0,
        parameters=count,
        quality=quality(registry, artifact),
        speeds=speeds,
        optimizers=optimizers,
        first_command=predict_command(registry, artifact) if bundled else f"taskloom train {recipe}",
        reprint=update if bundled else f"taskloom train {recipe} && {update} --store ~/.taskloom/models",
    )


def quality(registry: Registry, artifact: Artifact) -> Quality:
    """The primary metric, as the artifact's report has it."""
    report, task = read_report(artifact), registry.tasks.get(artifact.manifest.task)
    metric = next(spec for spec in task.metrics if spec.name == task.primary_metric)
    low, high = report.evaluation.intervals.get(metric.name, (None, None))
    data = report.evaluation_data
    return Quality(
        metric=metric.name,
        value=report.evaluation.metrics[metric.name],
        low=low,
        high=high,
        higher_is_better=metric.higher_is_better,
        data=DATA.get(artifact.manifest.model) or re.split(r" \(|, |; ", data.source)[0],
        data_sha256=data.sha256,
        rows=report.evaluation.examples,
        licence=data.licence,
        source=data.source,
        tier=tier(data.licence),
        processor=report.machine.processor,
        measured=report.created[:10],
    )


def tier(licence: str) -> Tier:
    if not licence or licence.startswith("none"):
        return "research"
    return "unclear" if "said to be" in licence else "open"


def rows_for(registry: Registry, artifact: Artifact) -> list[Example[Any]]:
    """What a request of this model looks like, without targets."""
    manifest, task = artifact.manifest, registry.tasks.get(artifact.manifest.task)
    if task.name == "fill-mask":
        return [row for name in ROWS[task.name] for row in task.read_examples(SAMPLES / name)]
    text = (SAMPLES / CHINESE).read_text(encoding="utf-8")
    if manifest.languages == ("zh",) and task.name == "qa":
        dice = random.Random(13)
        made = [cloze for document in text.split("\n\n") for cloze in cloze_questions(document, dice)]
        return [_asked(task, {"question": cloze.question, "context": cloze.passage}) for cloze in made]
    if manifest.languages == ("zh",) and task.text_field:
        sentences = [sentence for sentence in re.split(r"(?<=。)|\n", text) if len(sentence) > 8]
        return [_asked(task, {task.text_field: sentence}) for sentence in sentences]
    if task.name == "embedding":
        read = registry.tasks.get("qa").read_examples(SAMPLES / ROWS["qa"][0])
        texts = dict.fromkeys(text for row in read for text in (row.input.question, row.input.context))
        return [_asked(task, {"text": text}) for text in texts]
    if task.name in ROWS:
        return [row for name in ROWS[task.name] for row in task.read_examples(SAMPLES / name)]
    return [_asked(task, example) for example in manifest.examples]


def _asked(task: TaskPlugin[Any, Any, Any], fields: Mapping[str, Any]) -> Example[Any]:
    return Example(input=task.Input.model_validate(dict(fields)), target=None)


def recipe_of(name: str) -> str:
    for pattern in RECIPES:
        for path in sorted(ROOT.glob(pattern)):
            if tomllib.loads(path.read_text(encoding="utf-8")).get("name") == name:
                return path.relative_to(ROOT).as_posix()
    raise SystemExit(f"no recipe of this repository makes {name}")


def network_told(network: Mapping[str, Any]) -> str:
    """A network of our own in short: its sizes, in the order of the recipe."""
    kind = str(network.get("kind", "network"))
    sizes = [f"{name} {value}" for name, value in network.items() if name in ("layers", "hidden", "width", "widths", "blocks")]
    return " ".join([kind, *sizes]).replace("[", "").replace("]", "")


def backbone_bytes(name: str, digest: str) -> int:
    folder = find_backbone(name, digest)
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".txt"))


def anatomy(registry: Registry, artifact: Artifact, model: TaskModel[Any, Any, Any]) -> Anatomy:
    task = registry.tasks.get(artifact.manifest.task)
    kinds = {structure.kind for structure in model.structures()}
    able = {"quantize": model.graph is not None, "prune": bool(kinds), "distill": "layers" in kinds}
    count = sum(int(one.numel()) for one in model.module.parameters())
    return count, tuple(name for name, can in able.items() if can and not _refusal(registry, name, task, artifact))


def _refusal(registry: Registry, name: str, task: TaskPlugin[Any, Any, Any], artifact: Artifact) -> str:
    optimizer = registry.optimizers.get(name)
    try:
        optimizer.check(task, artifact, optimizer.Config())
    except UnsupportedError as exc:
        return exc.message
    return ""


def predict_command(registry: Registry, artifact: Artifact) -> str:
    """`taskloom predict` with the model's first example; a file in the place of bytes."""
    manifest, task = artifact.manifest, registry.tasks.get(artifact.manifest.task)
    form = InputForm.of(_described(manifest.model, task))
    example = {name: value for name, value in manifest.examples[0].items() if value not in (None, [], "")}
    words = []
    for name, value in example.items():
        kind = form.kinds[name]
        if kind is Kind.BINARY:
            words.append((name, "PICTURE.png"))
        elif kind is Kind.LIST:
            words.extend((name, str(item)) for item in value)
        else:
            words.append((name, value if kind is Kind.TEXT else json.dumps(value, ensure_ascii=False)))
    bare = len(words) == 1 and words[0][0] == form.bare
    told = [shlex.quote(value) if bare else f"{name}={shlex.quote(value)}" for name, value in words]
    model = manifest.model if "production" in artifact.aliases else artifact.name
    return " ".join(["taskloom predict", model, *told, "--local"])


def _described(model: str, task: TaskPlugin[Any, Any, Any]) -> ModelDescription:
    info = ModelInfo(name=model, version="1", task=task.name)
    schemas = {name: getattr(task, name.capitalize()).model_json_schema() for name in ("input", "output", "params")}
    return ModelDescription(info=info, **{f"{name}_schema": schema for name, schema in schemas.items()})


def _same_machine(old: MachineFacts | None, precision: str) -> MachineFacts:
    """This one; figures of two machines under one name would be no table."""
    machine = this_machine()
    facts = MachineFacts(
        processor=machine.processor,
        instructions=bf16_instructions(),
        threads=THREADS,
        precision=precision,
    )
    if old is not None and old != facts:
        raise SystemExit(
            f"the table's speeds are of {old}, this is {facts}: move {BOX / TABLE} away and measure every model here"
        )
    return facts


def remedies() -> Iterator[Remedy]:
    """What docs/optimizers/quantize.md says that was measured, and the other optimizers by name."""
    page = (ROOT / "docs" / "optimizers" / "quantize.md").read_text(encoding="utf-8")
    about = re.search(r"^(\S+), all layers.*?\((\d{4}-\d\d-\d\d), (.*?)\):", page, re.S | re.M)
    command = re.search(r"`(python benchmarks/quantize.py [^`]*)`", page)
    assert about is not None
    assert command is not None
    for mode, share, short in re.findall(r"^\| `(\w+)` \| [\d.]+ \(([\d.]+)\) \| ([\d.]+) \|", page, re.M):
        yield Remedy(
            optimizer="quantize",
            settings=(f"mode={mode}",),
            helps=("latency", "size") if float(short) > 1.1 else ("size",),
            speedup=float(short),
            size_share=float(share),
            model=about[1],
            baseline="fp32",
            machine=" ".join(about[3].split()),
            measured=about[2],
            reprint=command[1],
        )
    yield Remedy(optimizer="prune", helps=("latency", "size", "memory"))
    yield Remedy(optimizer="distill", settings=("layers=3",), helps=("latency", "size", "memory"))


if __name__ == "__main__":
    main()
