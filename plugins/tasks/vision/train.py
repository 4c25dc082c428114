"""Training an image classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.errors import DataError
from taskloom.core.task import Batch, Example, Trained, TrainRun
from taskloom.plugins._shared.datasets import stratified_split
from taskloom.plugins._shared.norms import calibrate_norms, sample
from taskloom.plugins._shared.training import Validation, fit, seed_everything
from taskloom.plugins.tasks.vision.augmentation import augment
from taskloom.plugins.tasks.vision.model import VisionModel
from taskloom.plugins.tasks.vision.network import CheckpointNetwork, head_parameters
from taskloom.plugins.tasks.vision.pixels import FixedSize, KeptPixels
from taskloom.plugins.tasks.vision.schema import TrainConfig, VisionInput, VisionOutput, VisionParams

MEASURED_AT_ONCE = 256
"""Pictures in a batch where no gradient is needed."""

Rows = Sequence[Example[VisionInput]]


def train(config: TrainConfig, rows: Rows, validation: Rows, run: TrainRun) -> Trained[VisionInput, VisionOutput, VisionParams]:
    """Trains a classifier. Without `validation`, a stratified part of `rows` is held out; with neither, every row is trained
    on for all epochs."""
    check_targets(rows)
    if validation:
        kept, held = list(rows), list(validation)
    else:
        kept, held = stratified_split(rows, lambda example: str(example.target), config.validation_fraction, config.seed)
    seed_everything(config.seed)
    labels = sorted({str(example.target) for example in kept})
    model, pixels = _untrained(config, labels, kept, held, run.roots)
    model.label_smoothing = config.label_smoothing
    model.reader = pixels
    if config.augmentation is not None:
        model.augment = partial(augment, settings=config.augmentation, blank=blank_colour(model))
    heads = head_parameters(model.module)
    result = fit(
        model,
        kept,
        config,
        run,
        length=lambda _: 0,
        fingerprint=training_fingerprint(config, kept, held),
        validation=Validation(partial(_measure, model, kept, held), "accuracy") if held else None,
        is_head=heads.__contains__,
    )
    calibrate_norms(model, kept)
    model.reader, model.augment = pixels.reader, None
    facts = {
        **result.facts,
        "validation_rows": len(held),
        "labels": len(labels),
        "parameters": sum(parameter.numel() for parameter in model.module.parameters()),
    }
    return Trained(model, result.history, facts)


def check_targets(rows: Rows) -> None:
    """Raises `DataError` where there is nothing to tell apart."""
    if len({example.target for example in rows}) < 2:
        path = rows[0].path if rows else ""
        raise DataError(f"{path or 'the data'} has fewer than two labels; there is nothing to tell apart", path=path)


def _untrained(
    config: TrainConfig, labels: Sequence[str], kept: Rows, held: Rows, roots: Sequence[Path]
) -> tuple[VisionModel, KeptPixels]:
    """The model to train, and the pictures as it takes them."""
    if config.backbone:
        model = VisionModel.import_checkpoint(config.backbone, labels=labels, mirrored=config.mirrored, roots=roots)
        if config.frozen_backbone:
            heads = head_parameters(model.module)
            for name, parameter in model.module.named_parameters():
                parameter.requires_grad_(name in heads)
        return model, KeptPixels(model.reader, [*kept, *held])
    pixels = KeptPixels(FixedSize(config.size, config.channels), [*kept, *held])
    mean, std = channel_statistics(pixels, kept)
    model = VisionModel.build(
        labels,
        network=config.network,
        size=config.size,
        channels=config.channels,
        mean=mean,
        std=std,
        mirrored=config.mirrored,
    )
    return model, pixels


def channel_statistics(pixels: KeptPixels, rows: Rows) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of values from 0 to 1, over a sample of pictures of one size."""
    stacked = torch.stack([pixels.read(example.input.image).pixels for example in sample(rows)]).double() / 255
    spread = stacked.std((0, 2, 3)).clamp(min=1e-3)
    return [round(x, 4) for x in stacked.mean((0, 2, 3)).tolist()], [round(x, 4) for x in spread.tolist()]


def blank_colour(model: VisionModel) -> Tensor:
    """What a network sees as nothing in particular: the mean of each channel, which processors have brought to 0."""
    if isinstance(model.module, CheckpointNetwork):
        return torch.zeros(1)
    return (255 * torch.tensor(model.saved.mean)).round()


def _on_device(model: VisionModel, rows: Rows) -> Batch:
    device = next(model.module.parameters()).device
    return {name: value.to(device) for name, value in model.encode([example.input for example in rows]).items()}


def _measure(model: VisionModel, kept: Rows, held: Rows) -> Mapping[str, float]:
    """Accuracy on the rows held out, of the weights as they are."""
    calibrate_norms(model, kept)
    right = 0
    with torch.inference_mode():
        for start in range(0, len(held), MEASURED_AT_ONCE):
            part = held[start : start + MEASURED_AT_ONCE]
            given = model.forward(_on_device(model, part))["logits"].argmax(-1).tolist()
            right += sum(model.labels[i] == example.target for i, example in zip(given, part, strict=True))
    return {"accuracy": right / len(held)}


def training_fingerprint(config: TrainConfig, rows: Rows, held: Rows) -> str:
    """Identifies a training: the same settings on the same rows."""
    content = [[[sha256_hex(example.input.image), str(example.target)] for example in part] for part in (rows, held)]
    return sha256_hex(canonical_json([config.model_dump(mode="json"), content]))
