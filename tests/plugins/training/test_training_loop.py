"""The training loop, on a model of a few numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from taskloom.core.errors import ConfigError
from taskloom.core.task import Example, TaskModel, TrainRun
from taskloom.plugins._shared.checkpoints import CHECKPOINT
from taskloom.plugins._shared.loop_config import LoopConfig
from taskloom.plugins._shared.schedule import batches_of_epoch, rate_factor
from taskloom.plugins._shared.training import MICRO_BATCH_LENGTH, FitResult, Validation, fit


class LineModel(TaskModel[Any, Any, Any]):
    """Fits y = 2x + 1, with dropout so that chance matters."""

    def __init__(self, seed: int = 0, dropout: float = 0.2) -> None:
        torch.manual_seed(seed)
        layers = {"body": nn.Linear(1, 8), "norm": nn.LayerNorm(8), "drop": nn.Dropout(dropout), "head": nn.Linear(8, 1)}
        self.module = nn.Sequential()
        for name, layer in layers.items():
            self.module.add_module(name, layer)

    def encode(self, inputs: Sequence[Any]) -> Mapping[str, Any]:
        return {"x": torch.tensor(inputs, dtype=torch.float32).unsqueeze(1)}

    def forward(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"y": self.module(batch["x"])}

    def decode(self, outputs: Any, inputs: Any, params: Any) -> list[Any]:
        return list(outputs["y"])

    def save(self, folder: Path) -> Mapping[str, Any]:
        return {}

    def collate(self, examples: Sequence[Example[Any]]) -> Mapping[str, Any]:
        return {**self.encode([e.input for e in examples]), "targets": torch.tensor([[float(e.target)] for e in examples])}

    def loss(self, batch: Mapping[str, Any]) -> Any:
        return nn.functional.mse_loss(self.forward(batch)["y"], batch["targets"])


def rows(count: int = 60) -> list[Example[Any]]:
    return [Example[Any].model_construct(input=i / count, target=2 * i / count + 1, path="", line=0) for i in range(count)]


SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 0.01,
    "head_learning_rate": 0.02,
    "checkpoint_steps": 3,
    "precision": "fp32",  # in other processes, too
}


def train(
    folder: Path,
    model: LineModel | None = None,
    *,
    on_event: Callable[[Mapping[str, Any]], None] = lambda _: None,
    fingerprint: str = "f",
    validation: Validation | None = None,
    start: Path | None = None,
    length: int = 1,
    **settings: Any,
) -> tuple[LineModel, FitResult]:
    model = model or LineModel()
    run = TrainRun(folder, start=start, show_progress=False, on_event=on_event)
    config = LoopConfig(**{**SETTINGS, **settings})
    torch.set_num_threads(1)  # sums depend on how they are shared out: as many threads in every process
    torch.manual_seed(config.seed)
    head: Callable[[str], bool] = lambda name: name.startswith("head.")  # noqa: E731
    known = fingerprint + str(settings)
    result = fit(model, rows(), config, run, length=lambda e: length, fingerprint=known, validation=validation, is_head=head)
    return model, result


def weights(model: LineModel) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in model.module.state_dict().items()}


def killed_at(folder: Path, step: int) -> None:
    """Runs this training in another process, which kills itself, without a chance to clean up, after a step."""
    process = subprocess.run([sys.executable, __file__, str(folder), str(step)], env=os.environ, check=False)
    assert process.returncode == -signal.SIGKILL


class SparseModel(LineModel):
    """Reads its weights for rows from `since` on; the loss of others is a number."""

    def __init__(self, since: float) -> None:
        super().__init__()
        self.since = since

    def loss(self, batch: Mapping[str, Any]) -> Any:
        chosen = batch["x"].squeeze(1) >= self.since
        return super().loss({name: value[chosen] for name, value in batch.items()}) if chosen.any() else torch.tensor(1.0)


def test_batches_that_read_nothing_of_what_is_trained_teach_nothing(tmp_path: Path) -> None:
    model, result = train(tmp_path, SparseModel(since=0.95), batch_size=2)  # three of the sixty rows
    assert result.history[-1]["step"] == 90
    assert weights(model) != weights(LineModel())


def test_rows_that_all_read_nothing_of_what_is_trained_are_refused_every_time(tmp_path: Path) -> None:
    for _ in range(2):  # the second time it goes on from a checkpoint of the first
        with pytest.raises(ConfigError, match="no row reads any of the weights that are trained"):
            train(tmp_path, SparseModel(since=2.0), epochs=1)


@pytest.mark.parametrize("step", [5, 8, 14])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, step: int) -> None:
    whole, expected = train(tmp_path / "whole")
    killed_at(tmp_path / "cut", step)
    assert (tmp_path / "cut" / CHECKPOINT).is_file()
    events: list[Mapping[str, Any]] = []
    # Other initial weights: everything must come from the checkpoint.
    resumed, result = train(tmp_path / "cut", LineModel(seed=99), on_event=events.append)
    assert weights(resumed) == weights(whole)
    assert result.history == expected.history
    assert events[0]["event"] == "resumed"
    assert 0 < events[0]["step"] <= step


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    whole, expected = train(tmp_path)
    events: list[Mapping[str, Any]] = []
    again, result = train(tmp_path, LineModel(seed=99), on_event=events.append)
    assert weights(again) == weights(whole)
    assert (result.history, result.facts) == (expected.history, expected.facts)
    assert events == []


def test_a_training_starts_from_the_weights_of_a_finished_one(tmp_path: Path) -> None:
    first, _ = train(tmp_path / "first")
    # As good as no steps: what is there at the end is what was there at the beginning.
    still = {"learning_rate": 1e-12, "head_learning_rate": 1e-12, "weight_decay": 0.0, "epochs": 1}
    second, _ = train(tmp_path / "second", LineModel(seed=99), start=tmp_path / "first", **still)
    for name, tensor in first.module.state_dict().items():
        torch.testing.assert_close(second.module.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)
    frozen = LineModel(seed=99)
    for name, parameter in frozen.module.named_parameters():
        parameter.requires_grad = name.startswith("head.")
    train(tmp_path / "third", frozen, start=tmp_path / "second", **still)
    fourth, _ = train(tmp_path / "fourth", LineModel(seed=7), start=tmp_path / "third", **still)
    for name, tensor in first.module.state_dict().items():
        torch.testing.assert_close(fourth.module.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_what_is_frozen_comes_from_the_start_when_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    first, _ = train(tmp_path / "first")

    def frozen() -> LineModel:
        model = LineModel(seed=99)
        for name, parameter in model.module.named_parameters():
            parameter.requires_grad = name.startswith("head.")
        return model

    def stop(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "second", frozen(), start=tmp_path / "first", on_event=stop)
    second, _ = train(tmp_path / "second", frozen(), start=tmp_path / "first")
    kept = {name: tensor for name, tensor in weights(first).items() if not name.startswith("head.")}
    assert kept
    assert {name: weights(second)[name] for name in kept} == kept


def test_a_start_that_is_not_finished_or_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished training"):
        train(tmp_path / "second", start=tmp_path / "first")
    killed_at(tmp_path / "first", 8)
    with pytest.raises(ConfigError, match="no finished training"):
        train(tmp_path / "second", start=tmp_path / "first")
    train(tmp_path / "first")
    other = LineModel()
    other.module.add_module("head", torch.nn.Linear(3, 5))
    with pytest.raises(ConfigError, match="is not the same in this model"):
        train(tmp_path / "second", other, start=tmp_path / "first")


def test_a_checkpoint_of_other_settings_or_a_torn_one_is_not_gone_on_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed_at(tmp_path, 8)
    whole, _ = train(tmp_path / "whole")
    content = (tmp_path / CHECKPOINT).read_bytes()
    train(tmp_path, fingerprint="other")
    assert "other settings" in caplog.text
    (tmp_path / CHECKPOINT).write_bytes(content[: len(content) // 2])
    again, _ = train(tmp_path)
    assert "can't be read" in caplog.text
    assert weights(again) == weights(whole)


def test_micro_batches_give_the_gradient_of_the_whole(tmp_path: Path) -> None:
    one, _ = train(tmp_path / "one", LineModel(dropout=0), epochs=1)
    parts, _ = train(tmp_path / "parts", LineModel(dropout=0), epochs=1, accumulation=3)
    for name, tensor in one.module.state_dict().items():
        torch.testing.assert_close(parts.module.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_batch_of_long_rows_is_run_in_micro_batches_where_that_may_be(tmp_path: Path) -> None:
    class Counted(LineModel):
        def __init__(self, splits_batches: bool) -> None:
            super().__init__(dropout=0)
            self.splits_batches, self.sizes = splits_batches, set[int]()

        def collate(self, examples: Sequence[Example[Any]]) -> Mapping[str, Any]:
            self.sizes.add(len(examples))
            return super().collate(examples)

    split, whole = Counted(True), Counted(False)
    train(tmp_path / "split", split, epochs=1, length=MICRO_BATCH_LENGTH // 3)
    train(tmp_path / "whole", whole, epochs=1, length=MICRO_BATCH_LENGTH // 3)
    assert max(split.sizes) == 3
    assert max(whole.sizes) == SETTINGS["batch_size"]
    for name, tensor in whole.module.state_dict().items():
        torch.testing.assert_close(split.module.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_training_stops_early_and_keeps_the_best_weights(tmp_path: Path) -> None:
    model = LineModel()
    scores = iter([0.5, 0.9, 0.7, 0.8, 0.99])
    seen: list[dict[str, Any]] = []

    def measure() -> dict[str, float]:
        seen.append(weights(model))
        return {"score": next(scores)}

    validation = Validation(measure, "score")
    _, result = train(tmp_path, model, validation=validation, epochs=5, early_stopping_patience=2)
    assert [row["score"] for row in result.history] == [0.5, 0.9, 0.7, 0.8]
    assert weights(model) == seen[1]


def test_what_is_kept_is_the_moving_average_that_was_judged(tmp_path: Path) -> None:
    averaged, _ = train(tmp_path, ema_decay=0.9)
    last, _ = train(tmp_path, ema_decay=0.0)
    assert weights(averaged) != weights(last)


def test_biases_and_norms_do_not_decay(tmp_path: Path) -> None:
    def norms(decay: float) -> dict[str, float]:
        model, _ = train(
            tmp_path, LineModel(dropout=0), epochs=1, weight_decay=decay, learning_rate=1e-9, head_learning_rate=1e-9
        )
        return {name: float(tensor.norm()) for name, tensor in model.module.state_dict().items()}

    # With next to no gradient step, only decay (rate * decay) can move a weight.
    with_decay, without = norms(1e8), norms(0.0)
    moved = {name for name in without if abs(with_decay[name] - without[name]) > 1e-3 * without[name] + 1e-6}
    assert moved == {"body.weight", "head.weight"}


def test_a_loss_that_is_no_number_stops_with_the_remedy(tmp_path: Path) -> None:
    model = LineModel()
    with torch.no_grad():
        model.module.get_parameter("head.weight").fill_(float("inf"))
    with pytest.raises(ConfigError, match="lower learning_rate"):
        train(tmp_path, model)


def test_nothing_to_train_is_an_error(tmp_path: Path) -> None:
    model = LineModel()
    model.module.requires_grad_(False)
    with pytest.raises(ConfigError, match="frozen"):
        train(tmp_path, model)


def test_weights_are_rounded_before_they_are_kept_and_not_before_they_are_judged_best(tmp_path: Path) -> None:
    plain, _ = train(tmp_path / "fp32")
    rounded, _ = train(tmp_path / "bf16", kept_in="bf16")
    again, _ = train(tmp_path / "bf16", kept_in="bf16")
    for name, weights in plain.module.named_parameters():
        expected = weights.to(torch.bfloat16).float()
        assert torch.equal(rounded.module.get_parameter(name), expected)
        assert torch.equal(again.module.get_parameter(name), expected)


def test_every_row_is_in_one_batch_of_an_epoch_and_epochs_differ() -> None:
    lengths = [i % 17 for i in range(333)]
    first, second = (batches_of_epoch(lengths, 10, 13, epoch) for epoch in (0, 1))
    assert sorted(i for batch in first for i in batch) == list(range(333))
    assert first != second
    assert first == batches_of_epoch(lengths, 10, 13, 0)
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in first]
    assert sum(spread) / len(spread) < 3, "batches hold texts of like length"


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


if __name__ == "__main__":
    work, last_step = Path(sys.argv[1]), int(sys.argv[2])

    def kill_at(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    train(work, on_event=kill_at)
