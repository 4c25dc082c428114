"""Tasks, a runtime and a dispatcher that behave, and misbehave, on demand. Importable by replicas in other processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from taskloom.core.artifact import Artifact, Manifest
from taskloom.core.errors import InvalidInputError, UnsupportedError
from taskloom.core.ports import BatchResult, PartSink, WorkItem, WorkResult
from taskloom.core.predictor import Predictor
from taskloom.core.registry import Registry
from taskloom.core.runtime import ExecutionPlan, RuntimeConfig, RuntimePlugin
from taskloom.core.store import ModelStore
from taskloom.core.task import (
    EvaluationResult,
    Example,
    MetricSpec,
    Run,
    SharedParts,
    TaskModel,
    TaskPlugin,
    Trained,
    TrainRun,
)
from taskloom.core.types import Frozen


class TextInput(Frozen):
    text: str = Field(examples=["hello"])


class TextOutput(Frozen):
    text: str
    version: str
    pid: int
    batch: int


class TextParams(Frozen):
    shout: bool = False
    step_s: float = 0.0
    """How long a word takes to write."""


class EchoModel(TaskModel[TextInput, TextOutput, TextParams]):
    def __init__(self, version: str) -> None:
        self.version = version

    def encode(self, inputs: Sequence[TextInput]) -> Mapping[str, Any]:
        if any(not given.text for given in inputs):
            raise InvalidInputError("text is empty", field="input.text")
        return {"texts": [given.text for given in inputs]}

    def forward(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        return batch

    def decode(self, outputs: Mapping[str, Any], inputs: Sequence[TextInput], params: Sequence[TextParams]) -> list[TextOutput]:
        return [
            TextOutput(
                text=text.upper() if wish.shout else text, version=self.version, pid=os.getpid(), batch=len(outputs["texts"])
            )
            for text, wish in zip(outputs["texts"], params, strict=True)
        ]

    def save(self, folder: Path) -> Mapping[str, Any]:
        raise UnsupportedError("a fake")


class SlowModel(EchoModel):
    """Takes 50 ms a batch, or as many seconds as a text says: `sleep 3`. Notes each text it ran in $TASKLOOM_TEST_RAN."""

    def forward(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        if ran := os.environ.get("TASKLOOM_TEST_RAN"):
            with Path(ran).open("a") as stream:
                stream.writelines(f"{text}\n" for text in batch["texts"])
        asked = [float(text.split()[1]) for text in batch["texts"] if text.startswith("sleep ")]
        time.sleep(max(asked, default=0.05))
        return batch


class PoisonModel(EchoModel):
    """`poison` raises, `kill` kills the process, `hang FILE` never returns; with FILE there, it does."""

    def forward(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        for text in batch["texts"]:
            if text == "poison":
                raise RuntimeError("a secret detail")
            if text == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if text.startswith("hang "):
                cured = Path(text.removeprefix("hang "))
                if not cured.exists():
                    cured.touch()
                    time.sleep(3600)
        return batch


class WritingModel(EchoModel):
    """Writes its text word by word, a step on the device for each, and notes each word in $TASKLOOM_TEST_RAN. At the word
    `poison` it raises, at `kill` it kills the process, at `kill:FILE` only while FILE is not there, which it makes; at `hang`
    it never ends."""

    streams = True

    def forward(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        word = str(batch.get("word", "")).strip()
        if ran := os.environ.get("TASKLOOM_TEST_RAN"):
            with Path(ran).open("a") as stream:
                stream.write(f"{word}\n")
        time.sleep(batch.get("step_s", 0.0))
        if word == "poison":
            raise RuntimeError("a secret detail")
        if word == "kill" or (word.startswith("kill:") and _made(Path(word.removeprefix("kill:")))):
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "hang":
            time.sleep(3600)
        return batch

    def stream(self, input: TextInput, params: TextParams, run: Run) -> Generator[str, None, TextOutput]:
        whole = self.encode([input])
        for word in words(input.text):
            run({"word": word, "step_s": params.step_s})
            yield word.upper() if params.shout else word
        return self.decode(whole, [input], [params])[0]


def _made(path: Path) -> bool:
    """Whether the file was not there; it is now."""
    if path.exists():
        return False
    path.touch()
    return True


def words(text: str) -> list[str]:
    """Each with the space that follows; laid end to end they are the text."""
    return re.findall(r"\S+\s*|\s+", text)


class EchoTask(TaskPlugin[TextInput, TextOutput, TextParams]):
    name = "echo"
    description = "Gives back what it gets."
    Input = TextInput
    Output = TextOutput
    Params = TextParams
    TrainConfig = TextParams
    metrics = (MetricSpec(name="accuracy", description="of an echo"),)
    primary_metric = "accuracy"
    data_formats = ("jsonl",)
    model: type[EchoModel] = EchoModel

    def cost(self, input: TextInput, params: TextParams) -> int:
        return len(input.text)

    def load(self, artifact: Artifact, shared: SharedParts) -> EchoModel:
        if artifact.manifest.config.get("broken"):
            raise RuntimeError("this version does not load")
        return self.model(artifact.manifest.version)

    def read_examples(self, path: Path) -> Iterator[Example[TextInput]]:
        raise UnsupportedError("a fake")

    def train(
        self, config: Any, train: Sequence[Example[TextInput]], validation: Sequence[Example[TextInput]], run: TrainRun
    ) -> Trained[TextInput, TextOutput, TextParams]:
        raise UnsupportedError("a fake")

    def evaluate(
        self,
        predictor: Predictor[TextInput, TextOutput, TextParams],
        examples: Sequence[Example[TextInput]],
        figures_folder: Path | None = None,
    ) -> EvaluationResult:
        raise UnsupportedError("a fake")


class SlowTask(EchoTask):
    name = "slow"
    model = SlowModel


class PoisonTask(EchoTask):
    name = "poison"
    model = PoisonModel


class WritingTask(EchoTask):
    name = "writing"
    model = WritingModel
    streams = True


class TerseTask(EchoTask):
    """A task some of whose models write piece by piece, and this one does not."""

    name = "terse"
    streams = True


class PlainExecutor:
    def __init__(self, model: TaskModel[Any, Any, Any], plan: ExecutionPlan) -> None:
        self.model = model
        self.plan = plan

    def run(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.model.forward(batch)

    def close(self) -> None:
        self.model.closed = True


class PlainRuntime(RuntimePlugin):
    """Calls `forward`, and nothing else."""

    name = "plain"
    description = "Plain Python."
    preference = 1

    def unavailable(self) -> str | None:
        return None

    def plan(self, config: RuntimeConfig) -> ExecutionPlan:
        return ExecutionPlan(runtime=self.name, device="cpu", precision="fp32", threads=1)

    def load(self, model: TaskModel[Any, Any, Any], artifact: Artifact | None, plan: ExecutionPlan) -> PlainExecutor:
        return PlainExecutor(model, plan)


def make_registry() -> Registry:
    registry = Registry()
    for task in (EchoTask(), SlowTask(), PoisonTask(), WritingTask(), TerseTask()):
        registry.tasks.add(task, "fakes")
    registry.runtimes.add(PlainRuntime(), "fakes")
    return registry


def publish(store: ModelStore, model: str, task: str, aliases: Sequence[str] = ("candidate",), **config: Any) -> Artifact:
    """A new version of `model`; the first one is `production`."""
    with store.draft(model) as draft:
        (draft / "weights.txt").write_text("nothing")
        manifest = Manifest(model=model, task=task, created="2026-01-01T00:00:00Z", config=config, labels=("yes", "no"))
        return store.publish(draft, manifest, aliases)


class FakeDispatcher:
    """Answers each batch after `takes_s` seconds of loop time. `behave` sees a batch first, and may raise or wait. Of an answer
    in parts it sends `PARTS`, one every `takes_s` seconds; `behave_part` sees the item and the place of a part first. It runs
    `slots` batches at a time; `standby` more wait here for their turn."""

    PARTS = ("one ", "two ", "three")

    def __init__(self, slots: int = 1, takes_s: float = 1.0, stream_slots: int = 1, standby: int = 0) -> None:
        self.free = slots
        self.standby = standby
        self.turns = asyncio.Semaphore(slots) if standby else contextlib.nullcontext()
        self.sent: list[float] = []
        self.stream_free = stream_slots
        self.streams: list[str] = []
        self.streaming = 0
        self.takes_s = takes_s
        self.batches: list[list[str]] = []
        self.flying = 0
        self.cancelled: list[list[str]] = []
        self.changed: Callable[[], None] = lambda: None

    async def start(self) -> None: ...

    def slots(self) -> int:
        return self.free

    def standby_slots(self) -> int:
        return self.standby

    def stream_slots(self) -> int:
        return self.stream_free

    async def behave_part(self, name: str, place: int) -> None: ...

    async def stream(self, item: WorkItem, deadline_s: float | None, send: PartSink) -> BatchResult:
        self.streams.append(item.request_id)
        self.streaming += 1
        assert self.streaming <= self.stream_free, "more answers in parts than slots"
        try:
            for place, part in enumerate(self.PARTS):
                await self.behave_part(item.request_id, place)
                await asyncio.sleep(self.takes_s)
                send(part)
        except asyncio.CancelledError:
            self.cancelled.append([item.request_id])
            raise
        finally:
            self.streaming -= 1
        return BatchResult([WorkResult("1", output={"id": item.request_id})], self.takes_s)

    def watch(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    async def behave(self, ids: list[str]) -> None: ...

    async def dispatch(self, items: Sequence[WorkItem], deadline_s: float | None) -> BatchResult:
        ids = [item.request_id for item in items]
        self.batches.append(ids)
        self.sent.append(asyncio.get_running_loop().time())
        self.flying += 1
        assert self.flying <= self.free + self.standby, "more batches in flight than slots"
        try:
            async with self.turns:
                await self.behave(ids)
                await asyncio.sleep(self.takes_s)
        except asyncio.CancelledError:
            self.cancelled.append(ids)
            raise
        finally:
            self.flying -= 1
        return BatchResult([WorkResult("1", output={"id": i}) for i in ids], self.takes_s)

    async def close(self) -> None: ...
