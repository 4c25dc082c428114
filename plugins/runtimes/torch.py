"""The torch runtime: picks device, precision and threads for the machine, and says why."""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, cast

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ConfigError, UnsupportedError
from taskloom.core.openmp import SPIN
from taskloom.core.runtime import ExecutionPlan, Executor, RuntimeConfig, RuntimePlugin
from taskloom.core.task import Batch, Outputs, TaskModel
from taskloom.plugins.runtimes.machine import bf16_instructions, usable_cores

if TYPE_CHECKING:
    import torch

REPLICA_ENVIRONMENT: Mapping[str, str] = {
    # Activations of some megabytes come and go with every operator. By default glibc maps and unmaps each, which the kernel
    # must clear page by page; these keep them in the heap.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    # Threads that spin long while they wait take the cores from the gateway and the client beside them.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": SPIN,
}


ENOUGH = 256
"""Values that are worth a thread, in the largest tensor of a batch: tokens, of text. With fewer, threads wait for each other
longer than they save where something else is at work on a core (`benchmarks/threads.py`)."""


class _Threads:
    """The processor's threads, shared by the forwards that run at a time: who begins alone gets all of them, who begins beside
    others gets as many as each would have, and nobody more than its batch has work for. In torch their number belongs to the
    thread that calls an operator."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0

    @contextmanager
    def share(self, of: int, values: int) -> Iterator[None]:
        import torch

        with self._lock:
            self._running += 1
            own = max(1, min(of // self._running, values // ENOUGH))
        try:
            if own != torch.get_num_threads():
                torch.set_num_threads(own)
            yield
        finally:
            with self._lock:
                self._running -= 1
            if own != of:
                torch.set_num_threads(of)  # threads that torch has not met yet begin with what was set last


_THREADS = _Threads()
"""The process's, since its cores are shared by all executors in it."""


class TorchExecutor:
    """A model on the planned device, in the planned precision, in evaluation mode."""

    def __init__(self, model: TaskModel[Any, Any, Any], plan: ExecutionPlan) -> None:
        import torch

        from taskloom.plugins._shared.packed import pack

        self.plan = plan
        self._device = torch.device(plan.device)
        self._model = model
        if self._device.type == "cpu":
            torch.set_num_threads(plan.threads)
        if model.module is not None:
            model.module.to(device=self._device, dtype=torch_dtype(plan.precision)).eval()
            if plan.packed:
                pack(model.module)

    def run(self, batch: Batch) -> Outputs:
        import torch

        with torch.inference_mode(), self._threads(batch):
            return _returned(self._model.forward(self._moved(batch)))

    def run_together(self, parts: Sequence[tuple[Executor, Batch]]) -> list[Outputs]:
        import torch

        with torch.inference_mode(), self._threads(*(batch for _, batch in parts)):
            jobs = [(cast(TorchExecutor, executor)._model, self._moved(batch)) for executor, batch in parts]
            places = [(model.branch, batch) for model, batch in jobs if model.branch is not None]
            hidden = places[0][0].trunk.run([(branch.name, batch) for branch, batch in places])
            return [_returned(model.finish(states, batch)) for (model, batch), states in zip(jobs, hidden, strict=True)]

    def _threads(self, *batches: Batch) -> AbstractContextManager[None]:
        if self._device.type != "cpu":
            return nullcontext()
        values = sum(max((v.numel() for v in batch.values() if hasattr(v, "numel")), default=0) for batch in batches)
        return _THREADS.share(self.plan.threads, values)

    def _moved(self, batch: Batch) -> Batch:
        return {
            name: value.to(self._device, non_blocking=True) if hasattr(value, "device") else value
            for name, value in batch.items()
        }

    def close(self) -> None:
        import torch

        if self._device.type == "cuda" and self._model.module is not None:
            self._model.module.to("cpu")
            torch.cuda.empty_cache()


class TorchRuntime(RuntimePlugin):
    """PyTorch, eager."""

    name: ClassVar[str] = "torch"
    description: ClassVar[str] = "PyTorch on a GPU or the CPU, in the precision that the machine does best."
    preference: ClassVar[int] = 10

    def unavailable(self) -> str | None:
        return None if find_spec("torch") is not None else "torch is not installed; run: pip install 'taskloom[local]'"

    def plan(self, config: RuntimeConfig) -> ExecutionPlan:
        device, why_device = choose_device(config.device)
        precision, why_precision = choose_precision(config.precision, device)
        packed, why_packed = choose_packing(precision, device)
        cores = usable_cores()
        threads = config.threads or cores
        why_threads = f"{threads} threads, as asked" if config.threads else f"{cores} cores that this process may use"
        return ExecutionPlan(
            runtime=self.name,
            device=device,
            precision=precision,
            threads=threads,
            lanes=threads if device == "cpu" else 1,
            packed=packed,
            # In fp32 the CPU's matrix products come from MKL, which has its kernels ready; oneDNN's and CUDA's are built.
            compiles_shapes=packed or (device, precision) != ("cpu", "fp32"),
            reasons=(why_device, why_precision, why_packed, why_threads),
            versions={"python": platform.python_version(), "torch": version("torch"), "transformers": version("transformers")},
        )

    def load(self, model: TaskModel[Any, Any, Any], artifact: Artifact | None, plan: ExecutionPlan) -> Executor:
        if model.module is not None and any(weights.is_meta for weights in model.module.parameters()):
            known = artifact.manifest.runtime if artifact is not None else ""
            raise UnsupportedError(
                "runtime 'torch' can't run this model: its weights are in the files of another runtime"
                + (f", {known!r}" if known else "")
                + "; use that, or the model that it was made from"
            )
        # A model without an artifact is in training: it keeps its weights as they are.
        return TorchExecutor(model, plan if artifact is not None else plan.model_copy(update={"packed": False}))

    def environment(self, config: RuntimeConfig) -> Mapping[str, str]:
        return {**REPLICA_ENVIRONMENT, "OMP_NUM_THREADS": str(config.threads or usable_cores())}


def choose_device(asked: str) -> tuple[str, str]:
    """The device and the reason for it."""
    import torch

    try:
        kind = torch.device("cpu" if asked == "auto" else asked).type
    except RuntimeError as exc:
        raise ConfigError(f"runtime.device is {asked!r}, which is no device; use 'auto', 'cpu', 'cuda' or 'cuda:0'") from exc
    if asked == "auto":
        if torch.cuda.is_available():
            return "cuda", f"GPU {torch.cuda.get_device_name()}"
        return "cpu", "no GPU that torch can use"
    if kind == "cuda":
        number = torch.device(asked).index or 0
        if number >= torch.cuda.device_count():
            raise ConfigError(
                f"runtime.device is {asked!r}, but torch {torch.__version__} finds {torch.cuda.device_count()} GPUs here; "
                "use 'auto' or 'cpu', or install a torch with CUDA"
            )
    elif kind != "cpu":
        raise ConfigError(f"runtime.device is {asked!r}; the torch runtime runs on 'cpu' and 'cuda'")
    return asked, "device as asked"


def choose_precision(asked: str, device: str) -> tuple[str, str]:
    """The precision and the reason for it."""
    import torch

    if asked == "int8":
        raise ConfigError(
            "runtime.precision is 'int8', which torch runs only as models quantized for another runtime; use 'auto'"
        )
    if asked != "auto":
        slow = asked == "fp16" or (asked == "bf16" and not bf16_instructions())
        note = "; this processor has no instructions for it and will be slow" if device == "cpu" and slow else ""
        return asked, f"{asked} as asked{note}"
    if device.startswith("cuda"):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "bf16: the GPU has it"
        return "fp16", "fp16: the GPU has no bf16"
    found = bf16_instructions()
    if not found:
        return "fp32", "fp32: the processor has no bf16 matrix instructions (AMX or AVX512-BF16)"
    gain = bf16_gain()
    told = f"{', '.join(found)}; a layer ran {gain:.1f} times as fast in bf16 as in fp32"
    return ("bf16", f"bf16: {told}") if gain > 1.1 else ("fp32", f"fp32: {told}")


def choose_packing(precision: str, device: str) -> tuple[bool, str]:
    """Whether to pack weights for oneDNN, and the reason for it."""
    if device != "cpu" or precision == "fp16":
        return False, "weights as they are: packed ones are for fp32 and bf16 on the CPU"
    from taskloom.plugins._shared.packed import LEAST_GAIN, packing_gain

    gain = packing_gain(torch_dtype(precision))
    told = f"a layer ran {gain:.1f} times as fast with packed ones"
    return (True, f"weights packed: {told}") if gain > LEAST_GAIN else (False, f"weights as they are: {told}")


def bf16_gain() -> float:
    """How many times as fast as fp32 a layer runs in bf16 on this CPU, both as they run best."""
    import torch

    from taskloom.plugins._shared.packed import linear_seconds

    fp32, bf16 = (min(linear_seconds(dtype, packed) for packed in (False, True)) for dtype in (torch.float32, torch.bfloat16))
    return fp32 / bf16


def torch_dtype(precision: str) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _returned(outputs: Outputs) -> Outputs:
    return {name: _on_cpu(value) for name, value in outputs.items()}


def _on_cpu(value: Any) -> Any:
    if not hasattr(value, "is_floating_point"):
        return value
    value = value.cpu()
    return value.float() if value.is_floating_point() and value.element_size() < 4 else value
