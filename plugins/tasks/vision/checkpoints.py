"""Reading and writing Hugging Face image classifiers and their processors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from taskloom.core.errors import ArtifactError, UnsupportedError
from taskloom.plugins.backbones.loading import find_backbone, quiet_transformers, weights_digest
from taskloom.plugins.backbones.shape import apply_shape, is_plain, read_shape, read_shaped, save_shape


@dataclass(frozen=True)
class Checkpoint:
    """An image classifier in memory, its processor, its labels in the order of its logits, and its weights' digest."""

    model: Any
    processor: Any
    labels: tuple[str, ...]
    multi_label: bool
    digest: str


def load_checkpoint(
    name: str,
    *,
    labels: Sequence[str] | None = None,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    roots: Sequence[Path] = (),
) -> Checkpoint:
    """Reads a checkpoint by Hugging Face id or folder. Where `labels` are not its own, its head is replaced by a new one for
    them; else its labels are taken.

    The processor is always Pillow's, so that a model answers alike whether torchvision is installed or not. Raises
    `NotFoundError` for a name that nothing answers to, `UnsupportedError` for a model that is no image classifier.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    processors: Any = AutoImageProcessor  # its methods have no types
    folder = find_backbone(name, roots=roots)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(folder, **options)
            own = tuple(str(config.id2label[i]) for i in range(config.num_labels))
            if labels is not None and tuple(labels) != own:
                names = dict(enumerate(labels))
                options |= {"num_labels": len(names), "id2label": names, "label2id": {x: i for i, x in names.items()}}
                options["ignore_mismatched_sizes"] = True
            shape = read_shape(folder)
            if shape is None:
                model = AutoModelForImageClassification.from_pretrained(folder, dtype=dtype, use_safetensors=True, **options)
            else:
                model = read_shaped(AutoModelForImageClassification, folder, shape, dtype)
            processor = processors.from_pretrained(folder, backend="pil", local_files_only=True)
        except (OSError, KeyError, RuntimeError, ImportError) as exc:
            raise ArtifactError(f"checkpoint {name!r} can't be read: {str(exc).strip().splitlines()[0]}") from exc
        except ValueError as exc:
            raise UnsupportedError(
                f"{name!r} is no image classifier that transformers knows: {str(exc).strip().splitlines()[0]}"
            ) from exc
    model.eval()
    several = config.problem_type == "multi_label_classification"
    return Checkpoint(model, processor, tuple(labels) if labels is not None else own, several, weights_digest(folder))


def blank_model(folder: Path) -> Any:
    """The model without weights (on torch's `meta` device) whose configuration is in a folder."""
    from transformers import AutoConfig, AutoModelForImageClassification

    classes: Any = AutoModelForImageClassification  # its methods have no types
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            with torch.device("meta"):
                model = classes.from_config(config, dtype=torch.float32)
            shape = read_shape(folder)
            if shape is not None:
                apply_shape(model, shape)
        except (OSError, KeyError, ValueError, RuntimeError) as exc:
            raise ArtifactError(f"checkpoint {folder.name!r} can't be read: {str(exc).strip().splitlines()[0]}") from exc
    return model.eval()


def read_processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    processors: Any = AutoImageProcessor  # its methods have no types
    with quiet_transformers():
        try:
            return processors.from_pretrained(folder, backend="pil", local_files_only=True)
        except (OSError, KeyError, ValueError, ImportError) as exc:
            raise ArtifactError(f"checkpoint {folder.name!r} can't be read: {str(exc).strip().splitlines()[0]}") from exc


def save_checkpoint(model: Any, processor: Any, folder: Path, *, weights: bool = True) -> None:
    """Writes what `load_checkpoint(str(folder))` makes the same again from; without `weights` what `blank_model` and
    `read_processor` need."""
    with quiet_transformers():
        if weights:
            # Names of earlier transformers are understood by `from_pretrained` alone, which can't read a pruned model.
            model.save_pretrained(folder, save_original_format=is_plain(model))
        else:
            model.config.architectures = [type(model).__name__]
            model.config.save_pretrained(folder)
        save_shape(model, folder)
        processor.save_pretrained(folder)
