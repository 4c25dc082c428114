"""What was measured of models, and of recipes that make them: the table that a choice among them is made from.

`benchmarks/selection.py` writes it (`measured.json` of the package `taskloom.models`); quality comes from the models' reports,
speed and memory from a process for each. `core.advice` chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from taskloom.core.errors import ArtifactError, unknown_name
from taskloom.core.types import Frozen, Name

TABLE = "measured.json"

Tier = Literal["open", "unclear", "research"]
"""What the licence of the data lets one do with weights that were trained on it: `open` to pass them on, `research` to measure
with them alone, for there is none; `unclear` where it is only said to be free."""
Shape = Literal["short", "long"]
"""Of a request: from the lower or the upper end of rows of the task. Where all cost the same, both are of the same calls."""
Percentile = Literal["p50", "p99"]
Goal = Literal["latency", "size", "memory"]


class Quality(Frozen):
    """The task's primary metric on `rows` rows that the model had not seen, with the 95% bootstrap interval where there is one.
    `data_sha256` says whether two figures are of the same rows. `measured` is a date, as everywhere here."""

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True
    data: str
    data_sha256: str
    rows: int = Field(ge=1)
    licence: str = ""
    source: str = ""
    tier: Tier
    processor: str
    measured: str


class CallTimes(Frozen):
    """The processor time of single requests, in process (encode, run, decode): on one thread it is what a request takes on a
    core of its own, whatever else the machine does. `tokens` is their mean cost, in the scheduler's unit."""

    p50_s: float = Field(gt=0)
    p99_s: float = Field(gt=0)
    calls: int = Field(ge=1)
    tokens: float = Field(gt=0)

    def at(self, percentile: Percentile) -> float:
        return self.p50_s if percentile == "p50" else self.p99_s


class Speed(Frozen):
    """A process that holds this model alone. `items_per_s` is of batches of `batch` short inputs, for each second of
    processor time; `peak_rss_bytes` the high-water mark of its resident memory, its libraries included; `load`
    the machine's load average when it began."""

    short: CallTimes
    long: CallTimes
    batch: int = Field(ge=1)
    items_per_s: float = Field(gt=0)
    peak_rss_bytes: int = Field(gt=0)
    load: float = Field(ge=0)
    measured: str

    def of(self, shape: Shape) -> CallTimes:
        return self.short if shape == "short" else self.long


class MachineFacts(Frozen):
    """Where speeds were measured, and in which precision the models ran."""

    processor: str
    instructions: tuple[str, ...] = ()
    """Those for bfloat16 that the processor has."""
    threads: int = Field(ge=1)
    precision: str


class MeasuredModel(Frozen):
    """A model that is in the box, or that its `recipe` (a path in the repository) makes.

    `backbone` is the pretrained encoder that it stands on; empty for a network trained from scratch, which `network` then
    describes. `size_bytes` is what its own files take, `backbone_bytes` those of a shared backbone beside them. `speeds` are by
    the table's machines; one that is missing was not measured. `optimizers` are those that can do something for it.
    `first_command` is what to type next, `reprint` what writes this row again."""

    name: Name
    version: str
    task: str
    languages: tuple[str, ...] = ()
    """Empty for models that read no language, such as those of pictures."""
    description: str = ""
    bundled: bool
    recipe: str
    backbone: str = ""
    network: str = ""
    size_bytes: int = Field(ge=0)
    backbone_bytes: int = Field(default=0, ge=0)
    parameters: int = Field(gt=0)
    quality: Quality
    speeds: Mapping[str, Speed] = Field(default_factory=dict)
    optimizers: tuple[Name, ...] = ()
    first_command: str
    reprint: str

    @property
    def whole_bytes(self) -> int:
        """What has to be on disk to run it, packages aside."""
        return self.size_bytes + self.backbone_bytes

    def reads(self, language: str) -> bool:
        return not language or not self.languages or language in self.languages


class Remedy(Frozen):
    """An optimizer, and what it may help with. The ratios are of one model where it was measured: `speedup` is how many times
    as fast single short requests became, `size_share` what was left of its size, both beside the model in the precision
    `baseline`; None where nobody measured it."""

    optimizer: Name
    settings: tuple[str, ...] = ()
    helps: tuple[Goal, ...]
    speedup: float | None = Field(default=None, gt=0)
    size_share: float | None = Field(default=None, gt=0)
    model: str = ""
    baseline: str = ""
    machine: str = ""
    measured: str = ""
    reprint: str = ""


class MeasuredTable(Frozen):
    """Everything that was measured. Names of models are unique, speeds are of machines that the table names."""

    machines: Mapping[str, MachineFacts] = Field(min_length=1)
    models: tuple[MeasuredModel, ...]
    remedies: tuple[Remedy, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> MeasuredTable:
        names = [model.name for model in self.models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"measured twice: {', '.join(twice)}")
        if unknown := sorted({machine for model in self.models for machine in model.speeds} - set(self.machines)):
            raise ValueError(f"speeds of machines that the table does not name: {', '.join(unknown)}")
        return self

    def model(self, name: str) -> MeasuredModel:
        """Raises `NotFoundError` for one that was not measured."""
        for model in self.models:
            if model.name == name:
                return model
        raise unknown_name("measured model", name, (model.name for model in self.models))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(sorted({model.task for model in self.models}))

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted({language for model in self.models for language in model.languages}))

    def loads(self, machine: str) -> tuple[float, float]:
        """The least and the greatest load average under which the machine's speeds were measured; (0, 0) without any."""
        told = [model.speeds[machine].load for model in self.models if machine in model.speeds] or [0.0]
        return min(told), max(told)

    def days(self, machine: str) -> tuple[str, ...]:
        return tuple(sorted({model.speeds[machine].measured for model in self.models if machine in model.speeds}))


def packaged_table() -> MeasuredTable:
    """The table that comes with Taskloom."""
    return read_table(Path(str(files("taskloom.models"))) / TABLE)


def read_table(path: Path) -> MeasuredTable:
    """Raises `ArtifactError` for a file that is missing or can't be understood."""
    try:
        return MeasuredTable.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise ArtifactError(f"{path.name}, the table of what was measured, can't be read: {exc.strerror}") from exc
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{path.name}, the table of what was measured, can't be used: {where}: {first['msg']}") from exc
