"""What the runtimes choose, and how they run a model."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.core.errors import ConfigError
from taskloom.core.openmp import SPIN, wait_briefly
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.task import Batch, Outputs, TaskModel
from taskloom.plugins.runtimes import machine
from taskloom.plugins.runtimes import torch as torch_runtime
from taskloom.plugins.runtimes.machine import BF16_FLAGS, bf16_instructions, usable_cores
from taskloom.plugins.runtimes.python import PythonRuntime
from taskloom.plugins.runtimes.torch import ENOUGH, TorchRuntime, choose_precision
from taskloom.sdk.cli.main import main


class DoublingModel(TaskModel[Any, Any, Any]):
    """Multiplies by two, with a layer."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(4, 4, bias=False)
        torch.nn.init.eye_(self.module.weight).data.mul_(2)
        self.saw: list[tuple[torch.dtype, bool]] = []

    def encode(self, inputs: Sequence[Any]) -> Mapping[str, Any]:
        return {"x": torch.tensor(inputs)}

    def forward(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        y = self.module(batch["x"].to(self.module.weight.dtype))
        self.saw.append((y.dtype, torch.is_inference_mode_enabled()))
        return {"y": y, "count": torch.tensor([len(y)])}

    def decode(self, outputs: Mapping[str, Any], inputs: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        return outputs["y"].tolist()

    def save(self, folder: Path) -> Mapping[str, Any]:
        return {}


class LengthRule(TaskModel[Any, Any, Any]):
    """Plain Python."""

    def encode(self, inputs: Sequence[Any]) -> Mapping[str, Any]:
        return {"texts": list(inputs)}

    def forward(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"lengths": [len(text) for text in batch["texts"]]}

    def decode(self, outputs: Mapping[str, Any], inputs: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        return list(outputs["lengths"])

    def save(self, folder: Path) -> Mapping[str, Any]:
        return {}


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_model_runs_in_the_planned_precision_and_answers_in_fp32(precision: Any, dtype: torch.dtype) -> None:
    runtime, model = TorchRuntime(), DoublingModel()
    model.module.train()
    executor = runtime.load(model, None, runtime.plan(RuntimeConfig(device="cpu", precision=precision, threads=1)))
    outputs = executor.run(model.encode([[1.0, 2.0, 3.0, 4.0]]))
    assert outputs["y"].tolist() == [[2.0, 4.0, 6.0, 8.0]]
    assert (outputs["y"].dtype, outputs["count"].dtype) == (torch.float32, torch.int64)
    assert model.saw == [(dtype, True)]
    assert not model.module.training
    executor.close()


def test_the_plan_says_why() -> None:
    plan = TorchRuntime().plan(RuntimeConfig(device="cpu"))
    assert plan.runtime == "torch"
    assert plan.threads == usable_cores()
    assert len(plan.reasons) == 4
    assert {"python", "torch", "transformers"} <= plan.versions.keys()


def test_bf16_is_taken_where_it_exists_and_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_runtime, "bf16_instructions", lambda: ("amx_bf16",))
    monkeypatch.setattr(torch_runtime, "bf16_gain", lambda: 3.5)
    assert choose_precision("auto", "cpu") == ("bf16", "bf16: amx_bf16; a layer ran 3.5 times as fast in bf16 as in fp32")
    monkeypatch.setattr(torch_runtime, "bf16_gain", lambda: 0.4)
    assert choose_precision("auto", "cpu")[0] == "fp32"
    monkeypatch.setattr(torch_runtime, "bf16_instructions", lambda: ())
    assert choose_precision("auto", "cpu")[0] == "fp32"
    assert "slow" in choose_precision("bf16", "cpu")[1]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"device": "cuda:99"}, "finds . GPUs here"),
        ({"device": "abacus"}, "no device"),
        ({"device": "meta"}, "'cpu' and 'cuda'"),
        ({"precision": "int8"}, "int8"),
    ],
)
def test_what_the_machine_has_not_got_is_refused(config: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        TorchRuntime().plan(RuntimeConfig(**config))


def test_a_replica_starts_with_a_heap_that_keeps_its_memory_and_threads_that_sleep() -> None:
    environment = TorchRuntime().environment(RuntimeConfig(threads=3))
    assert environment["MALLOC_MMAP_MAX_"] == "0"
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert PythonRuntime().environment(RuntimeConfig()) == {}


class CountingModel(DoublingModel):
    """Says on how many threads it ran; with `meeting`, two run at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.meeting: threading.Barrier | None = None

    def forward(self, batch: Batch) -> Outputs:
        if self.meeting is not None:
            self.meeting.wait()
        self.threads.append(torch.get_num_threads())
        if self.meeting is not None:
            self.meeting.wait()
        return batch


def test_a_batch_has_as_many_threads_as_it_has_work_for_and_shares_them_with_others() -> None:
    before = torch.get_num_threads()
    model = CountingModel()
    plan = TorchRuntime().plan(RuntimeConfig(device="cpu", precision="fp32", threads=4))
    assert plan.lanes == 4
    executor = TorchRuntime().load(model, None, plan)
    try:
        for values in (1, 2 * ENOUGH - 1, 2 * ENOUGH, 3 * ENOUGH, 100 * ENOUGH):
            executor.run({"input_ids": torch.zeros(values), "lengths": torch.tensor([values]), "texts": ["no tensor"]})
            assert torch.get_num_threads() == 4, "what runs after it is not held back"
        assert model.threads == [1, 1, 2, 3, 4]
        model.threads.clear()
        model.meeting = threading.Barrier(2, timeout=10)
        large: Batch = {"input_ids": torch.zeros(100 * ENOUGH)}
        others = [threading.Thread(target=executor.run, args=(large,)) for _ in range(2)]
        for other in others:
            other.start()
        for other in others:
            other.join()
        assert sorted(model.threads) == [2, 4], "who began alone, and who began beside it"
    finally:
        torch.set_num_threads(before)


def test_threads_of_our_processes_wait_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two threads on cores where something else is at work are many times slower than one."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back, whether it was there or not
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert os.environ["GOMP_SPINCOUNT"] == SPIN
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
def test_a_container_quota_limits_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path) == cores


def test_the_older_control_groups_limit_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == 3


def test_bf16_instructions_are_read_from_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BF16_FLAGS", BF16_FLAGS)  # no test sees them else
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags\t\t: fpu avx512_bf16 amx_tile amx_bf16\n")
    assert bf16_instructions(info) == ("amx_bf16", "avx512_bf16")
    info.write_text("flags\t\t: fpu avx2\n")
    assert bf16_instructions(info) == ()
    assert bf16_instructions(tmp_path / "none") == ()


def test_plain_python_runs_as_it_is() -> None:
    runtime, model = PythonRuntime(), LengthRule()
    executor = runtime.load(model, None, runtime.plan(RuntimeConfig()))
    assert executor.run(model.encode(["ab", "c"])) == {"lengths": [2, 1]}
    assert runtime.preference < 0
    with pytest.raises(ConfigError, match="runs on the CPU"):
        runtime.plan(RuntimeConfig(device="cuda"))
