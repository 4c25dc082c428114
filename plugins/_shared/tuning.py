"""Training a model that exists already, as optimizers do: judged by its task's own metric, and resumable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.optimizer import OptimizeContext
from taskloom.core.predictor import Predictor
from taskloom.core.runtime import ExecutionPlan
from taskloom.core.task import Batch, Example, Outputs, TaskModel
from taskloom.plugins._shared.datasets import rows_digest
from taskloom.plugins._shared.loop_config import TuneConfig
from taskloom.plugins._shared.norms import calibrate_norms
from taskloom.plugins._shared.training import FitResult, Validation, fit


class InMemory:
    """An executor for a model in training: where it is, in the precision that it has, in evaluation mode."""

    def __init__(self, model: TaskModel[Any, Any, Any]) -> None:
        self._model = model
        self._device = next(model.module.parameters()).device
        self.plan = ExecutionPlan(
            runtime="torch", device=str(self._device), precision="fp32", threads=torch.get_num_threads(), compiles_shapes=False
        )

    def run(self, batch: Batch) -> Outputs:
        with torch.inference_mode():
            found = self._model.forward(on_device(batch, self._device))
        return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in found.items()}

    def close(self) -> None:
        """There is nothing to close."""


def tune(
    learner: TaskModel[Any, Any, Any],
    model: TaskModel[Any, Any, Any],
    context: OptimizeContext,
    config: TuneConfig,
    *,
    fingerprint: str,
) -> FitResult:
    """Trains `learner` on `context.train`; `model`, which is `learner` or the model inside of it, is what is judged after each
    epoch by the task's primary metric on `context.validation`. It ends with its best weights, on the CPU, in evaluation
    mode. An interrupted one goes on where it was."""
    result = fit(
        learner,
        context.train,
        config,
        context.run,
        length=row_length(context),
        fingerprint=fingerprint,
        validation=_validation(model, context) if context.validation else None,
        is_head=lambda name: name.startswith("head."),
    )
    calibrate_norms(model, context.train)
    model.module.to("cpu").eval()
    return result


def row_length(context: OptimizeContext) -> Callable[[Example[Any]], int]:
    """How long a row is, as its task says what a request costs that asks for nothing special."""
    task, params = context.task, context.task.Params()
    return lambda row: task.cost(row.input, params)


def _validation(model: TaskModel[Any, Any, Any], context: OptimizeContext) -> Validation:
    spec = next(metric for metric in context.task.metrics if metric.name == context.task.primary_metric)

    def measure() -> Mapping[str, float]:
        calibrate_norms(model, context.train)
        with torch.random.fork_rng():
            predictor = Predictor(context.task, model, InMemory(model))
            return context.task.evaluate(predictor, context.validation).metrics

    return Validation(measure, spec.name, spec.higher_is_better)


def on_device(batch: Batch, device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def tuning_fingerprint(model: TaskModel[Any, Any, Any], context: OptimizeContext, config: TuneConfig) -> str:
    """Identifies a training: the same settings and rows, from the same weights, with the same parent."""
    content: list[Any] = [config.model_dump(mode="json"), context.parent.digest, weights_of(model.module)]
    return sha256_hex(canonical_json([*content, rows_digest(context.train), rows_digest(context.validation)]))


def weights_of(module: nn.Module) -> str:
    """SHA-256 over all weights, by name."""
    found = ""
    for name, tensor in sorted(module.state_dict().items()):
        found += name + sha256_hex(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha256_hex(found.encode())
