"""The training loop: one for every task, through the `TaskModel` contract (`module`, `collate`, `loss`).

It is our own because transformers' `Trainer` can't keep three promises: a checkpoint that is whole after `kill -9`, no
pickle on disk (`training_args.bin`, `optimizer.pt` and `rng_state.pth` are), and batches in any form that a task likes
(packed text, images) with the task's own loss.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.core.errors import ConfigError
from taskloom.core.task import Example, TaskModel, TrainRun
from taskloom.plugins._shared.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from taskloom.plugins._shared.loop_config import LoopConfig
from taskloom.plugins._shared.progress import TrainingProgress
from taskloom.plugins._shared.schedule import batches_of_epoch, micro_batches, rate_factor
from taskloom.plugins.runtimes.machine import bf16_instructions

MICRO_BATCH_LENGTH = 16_384
"""Estimated tokens of a micro-batch, where a model may be trained in such: what is kept for the gradient takes about 100 kB of
each in a small encoder."""


@dataclass(frozen=True)
class Validation:
    """How weights are judged: `measure` gives the metrics of the model as it is, `metric` is the one that decides."""

    measure: Callable[[], Mapping[str, float]]
    metric: str
    higher_is_better: bool = True


@dataclass(frozen=True)
class FitResult:
    history: Sequence[Mapping[str, float]]
    """One row per epoch: `epoch`, `step`, `loss`, `learning_rate` and the validation metrics."""
    facts: Mapping[str, Any]


def fit(
    model: TaskModel[Any, Any, Any],
    examples: Sequence[Example[Any]],
    config: LoopConfig,
    run: TrainRun,
    *,
    length: Callable[[Example[Any]], int],
    fingerprint: str,
    validation: Validation | None = None,
    is_head: Callable[[str], bool] = lambda _: False,
    prepare: Callable[[], None] = lambda: None,
) -> FitResult:
    """Trains `model` in place; at the end it has the best weights that `validation` saw, or the last ones without it.

    `length`, an estimate in tokens, groups examples of like size into a batch, and bounds the micro-batches of one. `is_head`
    says which parameters (by name) take the head's learning rate. `fingerprint` identifies settings and data: a checkpoint
    with the same one in `run.work_folder` is gone on from, and the result is then the same as without the interruption, on the
    same machine with as many threads. A checkpoint with the final weights stays there: the same training again gives them at
    once, and another's `run.start` may name the folder. `prepare` sets the first weights of a training that neither goes on nor
    has a start. Raises `ConfigError` if the loss is no longer a number, and if the start is no finished training of a model
    with the same parameters.
    """
    if not examples:
        raise ConfigError("there are no rows to train on")
    loop = _Loop(
        model=model,
        examples=examples,
        config=config,
        run=run,
        length=length,
        fingerprint=fingerprint,
        validation=validation,
        is_head=is_head,
    )
    return loop.run(prepare)


def seed_everything(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)


def pick_device(asked: str) -> torch.device:
    if asked != "auto":
        return torch.device(asked)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_precision(asked: str, device: torch.device) -> str:
    """`auto` is bf16 autocast where the machine multiplies in bf16, and fp32 elsewhere: emulated bf16 is slower."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if bf16_instructions() else "fp32"


class _Loop:
    """The state of one training: what a checkpoint holds, and the steps that change it."""

    def __init__(
        self,
        *,
        model: TaskModel[Any, Any, Any],
        examples: Sequence[Example[Any]],
        config: LoopConfig,
        run: TrainRun,
        length: Callable[[Example[Any]], int],
        fingerprint: str,
        validation: Validation | None,
        is_head: Callable[[str], bool],
    ) -> None:
        self.model, self.examples, self.config, self.run_info = model, examples, config, run
        self.start = finished_training(run.start) if run.start else None
        self.fingerprint = fingerprint if self.start is None else f"{self.start.state['fingerprint']} {fingerprint}"
        self.validation = validation
        self.lengths = [length(example) for example in examples]
        self.device = pick_device(config.device)
        self.precision = pick_precision(config.precision, self.device)
        self.module: nn.Module = model.module.to(self.device)
        self.trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        if not self.trained:
            raise ConfigError("every parameter is frozen: there is nothing to train")
        self.buffers = {name: b for name, b in self.module.named_buffers() if name in self.module.state_dict()}
        self.optimizer = torch.optim.AdamW(self._groups(is_head))
        self.steps_per_epoch = math.ceil(len(examples) / config.batch_size)
        self.total_steps = config.epochs * self.steps_per_epoch
        self.average = {name: p.detach().clone() for name, p in self.trained.items()} if config.ema_decay else {}
        self.best: dict[str, Tensor] = {}
        self.best_score: float | None = None
        self.epochs_without_gain = 0
        self.epoch = self.batch = self.step = 0
        self.loss_sum = 0.0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.resumed_at: list[int] = []

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self, prepare: Callable[[], None]) -> FitResult:
        folder = self.run_info.work_folder
        found = load_checkpoint(folder, self.fingerprint) if self.run_info.resume else None
        if found is not None and "facts" in found.state:
            self._restore_final(found)
            self.module.eval()
            return FitResult(tuple(found.state["history"]), found.state["facts"])
        if self.start is not None:
            self._restore_final(self.start)  # going on, too: a checkpoint on the way has not what is frozen here
        elif found is None:
            prepare()
        if found is not None:
            self._restore(found)
            self.resumed_at.append(self.step)
            self._tell("resumed")
        else:
            with torch.no_grad():
                for name, tensor in self.average.items():
                    tensor.copy_(self.trained[name])
        with TrainingProgress(self.total_steps, self.step, show=self.run_info.show_progress) as progress:
            while self.epoch < self.config.epochs and not self._stalled():
                self._run_epoch(progress)
        self._keep_best()
        self.module.eval()
        facts = self._facts()
        state = {"fingerprint": self.fingerprint, "history": self.history, "facts": facts}
        save_checkpoint(folder, Checkpoint(_flat(self._final()), state))
        return FitResult(tuple(self.history), facts)

    def _run_epoch(self, progress: TrainingProgress) -> None:
        batches = batches_of_epoch(self.lengths, self.config.batch_size, self.config.seed, self.epoch)
        self.module.train()
        began = time.perf_counter()
        for rows in batches[self.batch :]:
            step_loss = self._run_step(rows)
            self.batch += 1
            units = sum(self.lengths[i] for i in rows)
            progress.advance(self.epoch + 1, self.loss_sum / self.batch, units)
            every = self.config.checkpoint_steps
            if every and self.step % every == 0 and self.batch < len(batches):
                self.seconds, began = self.seconds + time.perf_counter() - began, time.perf_counter()
                self._save()
            rate = self.optimizer.param_groups[0]["lr"]
            self._tell("step", loss=step_loss, units=units, learning_rate=rate)
        if not any(self.optimizer.state.values()):
            raise ConfigError("no row reads any of the weights that are trained: there is nothing to learn from these rows")
        self._judge(progress)
        self.epoch, self.batch, self.loss_sum = self.epoch + 1, 0, 0.0
        self.seconds += time.perf_counter() - began
        self._save()
        self._tell("epoch", **self.history[-1])

    def _run_step(self, rows: Sequence[int]) -> float:
        factor = rate_factor(self.step, self.total_steps, self.config.warmup_ratio)
        for group in self.optimizer.param_groups:
            group["lr"] = group["top_rate"] * factor
        size = math.ceil(len(rows) / self.config.accumulation)
        longest = MICRO_BATCH_LENGTH if self.model.splits_batches else None
        step_loss = 0.0
        for place in micro_batches([self.lengths[i] for i in rows], size, longest):
            part = [self.examples[i] for i in rows[place]]
            batch = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in self.model.collate(part).items()}
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
                loss = self.model.loss(batch) * (len(part) / len(rows))
            if loss.requires_grad:  # no row of the part may read what is trained: the texts of an item, for one
                loss.backward()
            step_loss += float(loss.detach())
        if not math.isfinite(step_loss):
            raise ConfigError(
                f"the loss is {step_loss} at step {self.step + 1}; lower learning_rate "
                f"({self.config.learning_rate:g}) or head_learning_rate ({self.config.head_learning_rate:g})"
            )
        nn.utils.clip_grad_norm_(self.trained.values(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.loss_sum += step_loss
        self._average_weights()
        return step_loss

    def _average_weights(self) -> None:
        """Early on the average follows closely, so that the first weights don't linger in it."""
        if not self.average:
            return
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self.trained.items():
                self.average[name].lerp_(parameter, 1 - decay)

    def _groups(self, is_head: Callable[[str], bool]) -> list[dict[str, Any]]:
        """Norms and biases are the parameters with one dimension; decay would only pull them off their scale."""
        groups: list[dict[str, Any]] = []
        for head in (False, True):
            for decays in (False, True):
                chosen = [p for n, p in self.trained.items() if is_head(n) == head and (p.ndim > 1) == decays]
                rate = self.config.head_learning_rate if head else self.config.learning_rate
                decay = self.config.weight_decay if decays else 0.0
                if chosen:
                    groups.append({"params": chosen, "lr": rate, "top_rate": rate, "weight_decay": decay})
        return groups

    # -- judging ------------------------------------------------------------------------------------------------------

    def _judge(self, progress: TrainingProgress) -> None:
        row = {
            "epoch": float(self.epoch + 1),
            "step": float(self.step),
            "loss": self.loss_sum / max(1, self.batch),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        if self.validation is not None:
            self.module.eval()
            with _Swapped(self.trained, self.average):
                metrics = self.validation.measure()
            row.update(metrics)
            self._compare(metrics[self.validation.metric], self.validation.higher_is_better)
            progress.note(f"{self.validation.metric} {metrics[self.validation.metric]:.4f}")
        self.history.append(row)

    def _compare(self, score: float, higher_is_better: bool) -> None:
        if math.isnan(score):  # it is no better than any, and any is better than it
            self.epochs_without_gain += 1
        elif self.best_score is None or ((score > self.best_score) == higher_is_better and score != self.best_score):
            self.best_score, self.epochs_without_gain = score, 0
            source = self.average or self.trained
            self.best = {name: tensor.detach().clone() for name, tensor in source.items()}
        else:
            self.epochs_without_gain += 1

    def _stalled(self) -> bool:
        patience = self.config.early_stopping_patience
        return bool(patience) and self.epochs_without_gain >= patience

    def _keep_best(self) -> None:
        with torch.no_grad():
            for name, tensor in (self.best or self.average).items():
                self.trained[name].copy_(tensor)
            if self.config.kept_in == "bf16":
                for parameter in self.trained.values():
                    parameter.copy_(parameter.to(torch.bfloat16))

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {"random/cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.device)
        tensors.update(_flat(self._weights()))
        for name, parameter in self.trained.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{key}/{name}"] = value
        state = {
            "fingerprint": self.fingerprint,
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "best_score": self.best_score,
            "epochs_without_gain": self.epochs_without_gain,
            "history": self.history,
            "seconds": self.seconds,
            "resumed_at": self.resumed_at,
        }
        save_checkpoint(self.run_info.work_folder, Checkpoint(tensors, state))
        self._tell("checkpoint")

    def _weights(self) -> dict[str, Mapping[str, Tensor]]:
        return {"weights": self.trained, "buffers": self.buffers, "average": self.average, "best": self.best}

    def _final(self) -> dict[str, dict[str, Tensor]]:
        """What is not as it was built: the weights trained here, and those of the start, which may be frozen here."""
        started = _by_kind(self.start.tensors)["weights"] if self.start else {}
        changed = {name: p for name, p in self.module.named_parameters() if name in self.trained or name in started}
        return {"weights": changed, "buffers": dict(self.buffers)}

    def _restore_final(self, found: Checkpoint) -> None:
        from taskloom.plugins.backbones.task_model import EncoderTaskModel

        kinds = _by_kind(found.tensors)
        places = {"weights": dict(self.module.named_parameters()), "buffers": self.buffers}
        with torch.no_grad():
            for kind, group in kinds.items():
                for name, tensor in group.items():
                    place = places[kind].get(name)
                    if place is None or place.shape != tensor.shape:
                        raise ConfigError(
                            f"a training can't start from {self.run_info.start}: {name} is not the same in this model; a stage "
                            "may change how a model is trained, not what it is made of"
                        )
                    place.copy_(tensor)
        if isinstance(self.model, EncoderTaskModel):
            self.model.own_restored([places["weights"][name] for name in kinds.get("weights", ())])

    def _restore(self, found: Checkpoint) -> None:
        kinds = _by_kind(found.tensors)
        with torch.no_grad():
            for kind, group in self._weights().items():
                if kind != "best":
                    for name, tensor in group.items():
                        tensor.copy_(kinds[kind][name])
        self.best = {name: tensor.to(self.device) for name, tensor in kinds.get("best", {}).items()}
        for kind, group in kinds.items():
            section, _, key = kind.partition(".")
            if section == "optimizer":
                for name, tensor in group.items():
                    on = tensor if key == "step" else tensor.to(self.device)
                    self.optimizer.state[self.trained[name]][key] = on
        torch.set_rng_state(kinds["random"]["cpu"])
        if "cuda" in kinds["random"]:
            torch.cuda.set_rng_state(kinds["random"]["cuda"], self.device)
        state = found.state
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self.loss_sum, self.seconds = state["loss_sum"], state["seconds"]
        self.best_score, self.epochs_without_gain = state["best_score"], state["epochs_without_gain"]
        self.history, self.resumed_at = list(state["history"]), list(state["resumed_at"])

    # -- telling ------------------------------------------------------------------------------------------------------

    def _tell(self, event: str, **facts: float) -> None:
        self.run_info.on_event({"event": event, "step": self.step, "steps": self.total_steps, **facts})

    def _facts(self) -> dict[str, Any]:
        return {
            "rows": len(self.examples),
            "steps": self.step,
            "epochs": self.epoch,
            "trained_parameters": sum(p.numel() for p in self.trained.values()),
            "precision": self.precision,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "seconds": round(self.seconds, 1),
            "resumed_at_steps": self.resumed_at,
        }


def finished_training(folder: Path) -> Checkpoint:
    """What `fit` left in the work folder of a training that came to its end; raises `ConfigError` if there is none."""
    found = load_checkpoint(folder)
    if found is None or "facts" not in found.state:
        raise ConfigError(f"{folder} holds no finished training to start from")
    return found


def _flat(kinds: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{kind}/{name}": tensor for kind, group in kinds.items() for name, tensor in group.items()}


def _by_kind(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    kinds: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        kinds.setdefault(kind, {})[rest] = tensor
    return kinds


class _Swapped:
    """Puts other values into parameters for a while; nothing if there are none."""

    def __init__(self, parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        self.parameters, self.values = parameters, values

    def __enter__(self) -> None:
        self._exchange()

    def __exit__(self, *_: object) -> None:
        self._exchange()

    def _exchange(self) -> None:
        with torch.no_grad():
            for name, value in self.values.items():
                own = self.parameters[name].detach().clone()
                self.parameters[name].copy_(value)
                value.copy_(own)
