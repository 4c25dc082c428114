"""The runtime contract: what executes a model on this machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import Field

from taskloom.core.artifact import Artifact
from taskloom.core.task import Batch, Outputs, TaskModel
from taskloom.core.types import Frozen


class RuntimeConfig(Frozen):
    """What a user may ask of a runtime. `auto` is what the machine does best; `threads=0` is the replica's
    `num_cpus` under Ray, elsewhere every core that the process may use."""

    runtime: str = "auto"
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    threads: int = Field(default=0, ge=0)
    precision_of: str = ""
    """The runtime that `precision` is asked of; models that demand another one are run in what it does best. Empty: of each."""

    def asked_of(self, runtime: str) -> RuntimeConfig:
        """What of this is asked of the runtime of that name."""
        return self if self.precision_of in {"", runtime} else self.model_copy(update={"precision": "auto"})


class ExecutionPlan(Frozen):
    """What a runtime chose, and why; it is kept in reports and shown by `taskloom doctor`."""

    runtime: str
    device: str
    precision: str
    threads: int
    lanes: int = 1
    """How many batches run side by side at most, each on its share of the threads: small ones are no faster on all of them."""
    packed: bool = False
    """Whether weights are arranged for the processor's kernels, once, as the model is loaded."""
    compiles_shapes: bool = True
    """Whether the first batch of each shape costs more than the next, so that every shape is worth a warm-up."""
    reasons: tuple[str, ...] = ()
    versions: Mapping[str, str] = Field(default_factory=dict)


class Executor(Protocol):
    """A model made ready by a runtime. `run` may be called from as many threads at a time as the plan has lanes."""

    plan: ExecutionPlan

    def run(self, batch: Batch) -> Outputs:
        """`forward` on the planned device and precision. Takes CPU tensors, returns CPU tensors of at least fp32; a value
        that is no tensor goes in and comes out as it is."""

    def close(self) -> None: ...


@runtime_checkable
class JoiningExecutor(Executor, Protocol):
    """An executor whose runtime can run models that stand on one trunk in one pass."""

    def run_together(self, parts: Sequence[tuple[Executor, Batch]]) -> list[Outputs]:
        """What each executor's `run` gives for its batch. All are of this runtime and plan, and their models have a `branch` on
        the same trunk."""


class RuntimePlugin(ABC):
    """A runtime, as the registry knows it."""

    name: ClassVar[str]
    description: ClassVar[str]
    preference: ClassVar[int] = 0
    """Where the artifact and the user leave it open, the available runtime with the highest preference is taken."""

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why this runtime can't be used here, with the remedy; None if it can. Imports nothing heavy."""

    @abstractmethod
    def plan(self, config: RuntimeConfig) -> ExecutionPlan:
        """What it would do on this machine; raises `ConfigError` for what the machine hasn't got."""

    @abstractmethod
    def load(self, model: TaskModel[Any, Any, Any], artifact: Artifact | None, plan: ExecutionPlan) -> Executor:
        """Makes `model` ready. `artifact` is where a runtime finds files of its own; None for a model in training."""

    def environment(self, config: RuntimeConfig) -> Mapping[str, str]:
        """Environment variables that a process which will run models should be started with: allocators and thread pools
        read theirs once, before any code of ours runs. Imports nothing heavy."""
        return {}
