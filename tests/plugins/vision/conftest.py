"""Small random image classifiers, as transformers saves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from vision_pictures import LABELS


def make_image_checkpoint(folder: Path, kind: str, labels: Sequence[str] = LABELS, **options: Any) -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    shapes: dict[str, dict[str, Any]] = {
        "vit": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "image_size": 32,
            "patch_size": 8,
        },
        "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
        "convnext": {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "patch_size": 2, "num_stages": 4},
    }
    names = {"id2label": dict(enumerate(labels)), "label2id": {x: i for i, x in enumerate(labels)}}
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, **{**shapes[kind], **names, "num_labels": len(labels), **options})
    model = AutoModelForImageClassification.from_config(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1 if "conv" in name else 0.2)
    model.save_pretrained(folder)
    processors = {
        "vit": lambda: ViTImageProcessorPil(size={"height": 32, "width": 32}),
        "convnext": lambda: ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875),
        "resnet": lambda: ViTImageProcessorPil(do_resize=False),  # pictures stay at their own sizes
    }
    processors[kind]().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def image_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes a checkpoint in a folder of its own: `image_checkpoint("vit", labels=["yes", "no"])`."""

    def make(kind: str, **options: Any) -> str:
        return str(make_image_checkpoint(tmp_path_factory.mktemp(kind) / kind, kind, **options))

    return make
