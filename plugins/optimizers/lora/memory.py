"""What a training takes of memory: counted, and, where the system tells, measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from taskloom.core.errors import UnsupportedError
from taskloom.core.task import TaskModel
from taskloom.plugins.backbones.shape import layer_stack
from taskloom.plugins.backbones.task_model import EncoderTaskModel

FLOAT = 4
STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


def training_bytes(parameters: int, trainable: int, *, averaged: bool) -> dict[str, int]:
    """Bytes that a training holds from its first step to its last, in fp32: weights, gradients, AdamW's two moments, the moving
    average. Activations, which come and go with each batch, are not in it."""
    return {
        "weight_bytes": FLOAT * parameters,
        "gradient_bytes": FLOAT * trainable,
        "optimizer_bytes": 2 * FLOAT * trainable,
        "average_bytes": FLOAT * trainable if averaged else 0,
    }


@contextmanager
def checkpointing(model: TaskModel[Any, Any, Any], wanted: bool | None) -> Iterator[bool]:
    """While it is open, a text encoder in training keeps what goes into its layers and nothing else of them; gives whether that
    is so. `wanted` None is where it can be; raises `UnsupportedError` where it can't be and is wanted."""
    layers = list(layer_stack(model.parts.backbone.model) or []) if isinstance(model, EncoderTaskModel) else []
    if wanted and not layers:
        raise UnsupportedError("lora: gradient_checkpointing is for text encoders whose layers are known; leave it open")
    chosen = [] if wanted is False else layers
    for layer in chosen:
        layer.forward = _computed_again(layer.forward)
    try:
        yield bool(chosen)
    finally:
        for layer in chosen:
            del layer.forward


def _computed_again(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*given: Any, **more: Any) -> Any:
        return checkpoint(forward, *given, use_reentrant=False, **more) if torch.is_grad_enabled() else forward(*given, **more)

    return run


class PeakMemory:
    """Measures what the process takes more than at the start, at its highest, while this is open: its resident memory on
    Linux, and a GPU's own count where there is one. Measures the whole process, evaluations between epochs included."""

    def __init__(self) -> None:
        self._before: int | None = None
        self._growth: int | None = None

    def __enter__(self) -> PeakMemory:
        try:
            RESET.write_text("5")  # the high-water mark begins anew: proc(5), clear_refs
            self._before = _status("VmRSS")
        except OSError:
            self._before = None
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *_: object) -> None:
        peak = _status("VmHWM") if self._before is not None else None
        if peak is not None and self._before is not None:
            self._growth = max(0, peak - self._before)

    def facts(self) -> dict[str, Any]:
        """What could be measured."""
        found: dict[str, Any] = {} if self._growth is None else {"peak_rss_growth_bytes": self._growth}
        if torch.cuda.is_available():
            found["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
        return found


def _status(name: str) -> int | None:
    """A figure of /proc/self/status, in bytes."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
