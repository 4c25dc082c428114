"""What the engine needs of the world, as Protocols. Implementations live in `server` and `plugins`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import Field

from taskloom.core.types import ErrorInfo, Frozen, InferCall, InferResult, ModelDescription, ModelInfo, ModelRef


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One validated input on its way to a replica. `input` and `params` are JSON data of the task's schemas, `cost` is what
    the task expects it to cost."""

    request_id: str
    model: str
    input: Mapping[str, Any]
    params: Mapping[str, Any]
    cost: int = 1


@dataclass(frozen=True, slots=True)
class WorkResult:
    """What became of one item: `output` (JSON data) or `error`, never both. `version` is the version that answered."""

    version: str
    output: Mapping[str, Any] | None = None
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a batch: one result per item, in order, and the seconds that the replica worked on it."""

    results: Sequence[WorkResult]
    compute_s: float


PartSink = Callable[[str], None]
"""Takes what a model writes, part by part; returns at once. Called in the event loop."""


class Dispatcher(Protocol):
    """Carries batches to the replicas of one pool. Async; called from one event loop."""

    async def start(self) -> None:
        """Returns when at least one replica is ready; raises `UnavailableError` if none comes up."""

    async def dispatch(self, items: Sequence[WorkItem], deadline_s: float | None) -> BatchResult:
        """Runs the batch on one replica. Raises `ReplicaLostError` if that replica died: then no item was answered and all
        may be tried again. `deadline_s` is on the `time.time()` clock: the latest of the items' deadlines."""

    async def stream(self, item: WorkItem, deadline_s: float | None, send: PartSink) -> BatchResult:
        """As `dispatch` for this item alone. What its model writes on the way to the answer goes to `send`, if it is one
        that streams. Ends the work when it is cancelled."""

    def slots(self) -> int:
        """How many batches the replicas can run now: one each."""

    def standby_slots(self) -> int:
        """How many more the replicas can hold now, to go on with at once when they have finished one."""

    def stream_slots(self) -> int:
        """How many answers the replicas can write in parts now, beside their batches."""

    def watch(self, changed: Callable[[], None]) -> None:
        """`changed` is called, in the event loop, whenever there are more slots."""

    async def close(self) -> None: ...


class InferenceEngine(Protocol):
    """Models that answer: what `taskloom.sdk.local()` and the gateway's service stand on. Async."""

    async def start(self) -> None: ...

    async def infer(self, call: InferCall, send: PartSink | None = None) -> InferResult:
        """Validates, schedules, runs. Raises a `TaskloomError`. With `send`, parts of the answer go there as the model
        writes them, if it is one that streams; what is returned is the whole answer in any case."""

    def models(self) -> Sequence[ModelInfo]: ...

    def describe(self, ref: ModelRef) -> ModelDescription: ...

    async def close(self) -> None: ...


class AuditEntry(Frozen):
    """What happened, before it is chained and stored. `payload` is the input or the output as JSON data; what is kept of
    it is the log's policy. `binary` names the input's fields that hold bytes in base64, which can't be redacted like text."""

    kind: Literal["accepted", "completed", "failed", "event"]
    action: str = "infer"
    """`infer` for requests; for events a dotted verb, such as `model.promote` or `key.revoke`."""
    request_id: str = ""
    principal: str
    tenant: str = "default"
    key_id: str = ""
    model: str = ""
    version: str = ""
    task: str = ""
    time_s: float
    duration_s: float = 0.0
    code: str = ""
    payload: Mapping[str, Any] | None = None
    binary: tuple[str, ...] = ()
    facts: Mapping[str, Any] = Field(default_factory=dict)


class AuditReceipt(Frozen):
    """Where an entry stands in the chain: its sequence number (from 1) and its hash (hex SHA-256)."""

    sequence: int
    digest: str


class AuditLog(Protocol):
    """A durable, chained log. Async."""

    async def append(self, entry: AuditEntry) -> AuditReceipt:
        """Returns when the entry is on stable storage; raises `AuditUnavailableError` if it can't be put there. The entry is
        taken before the first wait: cancelling the caller doesn't take it back."""

    async def close(self) -> None: ...
