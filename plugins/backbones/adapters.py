"""LoRA adapters in PEFT's format on a backbone: made, read, merged, written."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskloom.core.errors import ArtifactError, UnsupportedError
from taskloom.plugins._shared.weights import stored
from taskloom.plugins.backbones.loading import Backbone, quiet_transformers
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.backbones.virtual_tokens import CONFIG_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from torch import Tensor

NOT_MIXABLE = (
    "use_dora",
    "modules_to_save",
    "fan_in_fan_out",
    "lora_bias",
    "layer_replication",
)
"""Settings of PEFT that make a LoRA adapter more than one low-rank addition to each of its layers."""
LAYER_NUMBER = re.compile(r"\.\d+\.")


def add_adapter(backbone: Backbone, settings: LoraSettings) -> Any:
    """Puts a new, trainable adapter on the backbone in place and freezes everything else; returns the `PeftModel` that
    knows it."""
    from peft import LoraConfig, get_peft_model

    known = layer_linears(backbone.model)
    if not known:
        raise UnsupportedError(
            f"a {backbone.model.config.model_type} model has no linear layers in numbered blocks, which adapters go to; train "
            "it whole (adapter = false)"
        )
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.use_rslora,
        target_modules=list(settings.target_modules) or known,
    )
    try:
        with quiet_transformers():
            return get_peft_model(backbone.model, config)
    except ValueError as exc:
        there = ", ".join(known)
        raise UnsupportedError(
            f"the adapter's target_modules {list(settings.target_modules)} are not in {backbone.info.id!r}; it has: {there}"
        ) from exc


def layer_linears(model: Any) -> list[str]:
    """The linear layers inside the numbered layers of a model, by the end of their names: what LoRA best adapts, all of
    them (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 4)."""
    from torch.nn import Linear

    names = {
        LAYER_NUMBER.split(name, maxsplit=1)[1]
        for name, module in model.named_modules()
        if isinstance(module, Linear) and LAYER_NUMBER.search(name)
    }
    return sorted(names)


def load_adapter(backbone: Backbone, folder: Path) -> None:
    """Adds the adapter in `folder` to the backbone's weights, in place: it then costs nothing at inference."""
    from peft import PeftModel

    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ArtifactError(f"the adapter has no {name}")
    try:
        with quiet_transformers():
            adapted = PeftModel.from_pretrained(backbone.model, folder, is_trainable=False)
    except (ValueError, RuntimeError, KeyError) as exc:
        raise ArtifactError(f"the adapter does not fit backbone {backbone.info.id!r}: {str(exc).splitlines()[0]}") from exc
    backbone.model = adapted.merge_and_unload()


def mixable_adapter(folder: Path) -> bool:
    """Whether the adapter is virtual tokens, or a plain low-rank addition to linear layers, which can be added per stretch of a
    batch."""
    config = _adapter_config(folder)
    if "virtual_tokens" in config:
        return True
    plain = config.get("peft_type") == "LORA" and config.get("bias", "none") == "none"
    return plain and not any(config.get(name) for name in NOT_MIXABLE)


def read_adapter(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """A mixable adapter by the path of the layer that it adds to: `down` [r, in] and `up` [out, r], its scaling in `up`. The
    rank r may differ from layer to layer."""
    from peft.utils.other import get_pattern_key
    from safetensors.torch import load_file

    config = _adapter_config(folder)
    alphas: dict[str, float] = config.get("alpha_pattern") or {}
    weights = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS_FILE).items()}
    found = {}
    for name, down in weights.items():
        path, middle, _ = name.partition(".lora_A.")
        if middle:
            layer, rank = path.removeprefix("base_model.model."), len(down)
            alpha = float(alphas.get(get_pattern_key(list(alphas), layer), config["lora_alpha"]))
            scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
            found[layer] = (down, weights[name.replace(".lora_A.", ".lora_B.")] * scaling)
    if not found or 2 * len(found) != len(weights):
        raise ArtifactError(f"{WEIGHTS_FILE} holds other weights than pairs of lora_A and lora_B")
    return found


def _adapter_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ArtifactError(f"the adapter has no readable {CONFIG_FILE}: {exc}") from exc
    return config


def save_adapter(adapted: Any, backbone: Backbone, folder: Path) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored(get_peft_model_state_dict(adapted)), folder / WEIGHTS_FILE)
    config = adapted.peft_config[adapted.active_adapter]
    config.base_model_name_or_path = backbone.info.id  # PEFT puts the folder that the weights were read from
    config.save_pretrained(folder)
