"""The shape of an encoder whose layers differ: read, applied, written. A Hugging Face configuration has one number of heads and
one of units for all layers, so an encoder that was pruned has `structure.json` beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from taskloom.core.errors import ArtifactError
from taskloom.core.types import Frozen
from taskloom.plugins.backbones.packing import PREFIX

STRUCTURE_FILE = "structure.json"


class LayerShape(Frozen):
    """How many attention heads a layer has, and how many units its feed-forward part."""

    heads: int = Field(ge=1)
    units: int = Field(ge=1)


class EncoderShape(Frozen):
    """`structure.json`. The size of a head is what the configuration says: hidden size over its number of heads."""

    format: Literal[1] = 1
    layers: tuple[LayerShape, ...] = Field(min_length=1)


@dataclass(frozen=True)
class _Ports:
    """Where the parts of a layer are, by path."""

    stack: str
    attention: str
    inputs: tuple[str, str, str]
    output: str
    first: str
    second: str


_BERT = _Ports(
    stack="encoder.layer",
    attention="attention.self",
    inputs=("attention.self.query", "attention.self.key", "attention.self.value"),
    output="attention.output.dense",
    first="intermediate.dense",
    second="output.dense",
)
_DISTILBERT = _Ports(
    stack="transformer.layer",
    attention="attention",
    inputs=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    output="attention.out_lin",
    first="ffn.lin1",
    second="ffn.lin2",
)
_VIT = _Ports(
    stack="layers",
    attention="attention",
    inputs=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    output="attention.o_proj",
    first="mlp.fc1",
    second="mlp.fc2",
)
_PORTS = {
    **dict.fromkeys(("bert", "ernie", "electra", "roberta", "xlm-roberta", "camembert"), _BERT),
    "distilbert": _DISTILBERT,
    **dict.fromkeys(("vit", "deit"), _VIT),
}


@dataclass(frozen=True)
class EncoderLayer:
    """A layer and the linear modules in it that pruning cuts."""

    module: nn.Module
    attention: nn.Module
    inputs: tuple[nn.Linear, nn.Linear, nn.Linear]
    output: nn.Linear
    first: nn.Linear
    second: nn.Linear

    @property
    def head_size(self) -> int:
        attention: Any = self.attention
        return int(attention.head_dim if hasattr(attention, "head_dim") else attention.attention_head_size)

    @property
    def shape(self) -> LayerShape:
        return LayerShape(heads=self.output.in_features // self.head_size, units=self.second.in_features)

    def keep_heads(self, heads: Sequence[int]) -> None:
        size = self.head_size
        rows = torch.tensor([head * size + i for head in heads for i in range(size)])
        for linear in self.inputs:
            keep_outputs(linear, rows)
        keep_inputs(self.output, rows)
        if prefix := getattr(self.attention, PREFIX, None):
            prefix.keep_heads(heads)
        for name, value in (("num_attention_heads", len(heads)), ("n_heads", len(heads)), ("all_head_size", len(rows))):
            if hasattr(self.attention, name):
                setattr(self.attention, name, value)

    def keep_units(self, units: Sequence[int]) -> None:
        rows = torch.tensor(list(units))
        keep_outputs(self.first, rows)
        keep_inputs(self.second, rows)


def keep_outputs(linear: nn.Linear, rows: Tensor) -> None:
    """Cuts a layer down to some of its outputs, into new tensors."""
    linear.weight = _cut(linear.weight, 0, rows)
    if linear.bias is not None:
        linear.bias = _cut(linear.bias, 0, rows)
    linear.out_features = len(rows)


def keep_inputs(linear: nn.Linear, columns: Tensor) -> None:
    linear.weight = _cut(linear.weight, 1, columns)
    linear.in_features = len(columns)


def _cut(parameter: Tensor, dim: int, kept: Tensor) -> nn.Parameter:
    found = parameter.detach().index_select(dim, kept.to(parameter.device)).contiguous()
    return nn.Parameter(found, requires_grad=parameter.requires_grad)


def layer_stack(model: Any) -> nn.ModuleList | None:
    """The layers of a backbone (or of the checkpoint around one); None for a kind of model that isn't known here."""
    base = model.base_model
    ports = _ports(base)
    if ports is None:
        return None
    stack = base.get_submodule(ports.stack)
    return stack if isinstance(stack, nn.ModuleList) else None


def encoder_layers(model: Any, *, through_adapters: bool = False) -> list[EncoderLayer]:
    """The layers that can be cut, from the bottom; none where they are of a kind that isn't known here, or where an adapter
    stands in the way of the plain weights, unless they are only looked at, `through_adapters`."""
    ports, stack = _ports(model.base_model), layer_stack(model)
    if ports is None or stack is None:
        return []
    found = []
    for layer in stack:
        linears = [layer.get_submodule(path) for path in (*ports.inputs, ports.output, ports.first, ports.second)]
        if through_adapters:
            linears = [getattr(linear, "base_layer", linear) for linear in linears]
        plain = [linear for linear in linears if isinstance(linear, nn.Linear)]
        if len(plain) < len(linears):
            return []
        query, key, value, output, first, second = plain
        found.append(EncoderLayer(layer, layer.get_submodule(ports.attention), (query, key, value), output, first, second))
    return found


def _ports(base: Any) -> _Ports | None:
    return _PORTS.get(base.config.model_type)


def _configured(config: Any) -> LayerShape:
    units = config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
    return LayerShape(heads=config.num_attention_heads, units=units)


def is_plain(model: Any) -> bool:
    """Whether the configuration says all of a model's shape."""
    shapes = {layer.shape for layer in encoder_layers(model, through_adapters=True)}
    return not shapes or shapes == {_configured(model.config)}


def save_shape(model: Any, folder: Path) -> None:
    """Writes `structure.json` if the configuration can't say what the model's layers are, and removes one that is no longer
    true."""
    shapes = tuple(layer.shape for layer in encoder_layers(model, through_adapters=True))
    if is_plain(model):
        (folder / STRUCTURE_FILE).unlink(missing_ok=True)
    else:
        (folder / STRUCTURE_FILE).write_text(EncoderShape(layers=shapes).model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_shape(folder: Path) -> EncoderShape | None:
    """None for a backbone that is as its configuration says. Raises `ArtifactError` for a file that can't be understood."""
    path = folder / STRUCTURE_FILE
    if not path.is_file():
        return None
    try:
        return EncoderShape.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        reason = f"{exc.errors()[0]['loc']}: {exc.errors()[0]['msg']}" if isinstance(exc, ValidationError) else str(exc)
        raise ArtifactError(f"{STRUCTURE_FILE}, the shape of the encoder's layers, can't be understood: {reason}") from exc


def apply_shape(model: Any, shape: EncoderShape) -> None:
    """Cuts the layers of a model that is as its configuration says, whatever their weights; raises `ArtifactError` for a shape
    that can't be cut from it."""
    layers = encoder_layers(model)
    if len(layers) != len(shape.layers):
        raise ArtifactError(
            f"{STRUCTURE_FILE} is of {len(shape.layers)} layers, and the encoder has {len(layers)} that can be cut"
        )
    for number, (layer, wanted) in enumerate(zip(layers, shape.layers, strict=True)):
        here = layer.shape
        if wanted.heads > here.heads or wanted.units > here.units:
            raise ArtifactError(
                f"{STRUCTURE_FILE} wants {wanted.heads} heads and {wanted.units} units in layer {number}; its configuration "
                f"allows {here.heads} and {here.units}"
            )
        layer.keep_heads(range(wanted.heads))
        layer.keep_units(range(wanted.units))


def read_shaped(auto_class: Any, folder: Path, shape: EncoderShape, dtype: torch.dtype | Literal["auto"]) -> Any:
    """The model in a folder, of this shape. Raises `ArtifactError` if its weights are not exactly those that the shape has."""
    from safetensors.torch import load_file
    from transformers import AutoConfig
    from transformers.initialization import no_init_weights

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with no_init_weights():
        model = auto_class.from_config(config)
    apply_shape(model, shape)
    weights: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(path))
    try:
        model.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as exc:
        lines = str(exc).splitlines()
        raise ArtifactError(
            f"the weights are not of the shape in {STRUCTURE_FILE}: {' '.join(lines[1:2] or lines).strip()}"
        ) from exc
    return model if dtype == "auto" else model.to(dtype)
