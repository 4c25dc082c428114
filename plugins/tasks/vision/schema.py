"""What image classification takes, gives and can be told. Imports no ML library, and no image library either."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from taskloom.core.types import Frozen
from taskloom.plugins._shared.label_scores import LabelScore
from taskloom.plugins._shared.loop_config import LoopConfig
from taskloom.plugins.tasks.vision.image_files import KINDS, MAX_BYTES, read_image_file

MAX_BASE64 = -(-MAX_BYTES // 3) * 4
"""Letters that `MAX_BYTES` bytes become."""
GREY_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAAAAACMmsGiAAAAHElEQVR42mNkEBAQYHQQEBBgcRAQEGA8ICAgAAAQRAIIemiTNgAAAABJRU5ErkJggg=="
)
RED_WEBP = "UklGRh4AAABXRUJQVlA4TBEAAAAvA8AAAAdQjyIXpf+BiOh/AAA="


def image_bytes(value: Any) -> bytes:
    """The file that a value stands for: bytes as they are, text as base64. Raises `ValueError` for anything else, and for a
    file that `read_image_file` refuses."""
    if isinstance(value, str):
        if len(value) > MAX_BASE64:
            raise ValueError(f"the image has {len(value)} letters of base64, {MAX_BASE64} are allowed; send a smaller picture")
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise ValueError(f"the image is no base64 ({exc}); send the bytes of {KINDS} in base64, nothing before it") from exc
    if not isinstance(value, bytes):
        raise ValueError(f"the image is a {type(value).__name__}; send {KINDS}: bytes in Python, base64 in JSON")
    read_image_file(value)
    return value


def as_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


ImageBytes = Annotated[
    bytes,
    PlainValidator(image_bytes),
    PlainSerializer(as_base64, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "type": "string",
            "contentEncoding": "base64",
            "contentMediaType": "image/*",
            "maxLength": MAX_BASE64,
            "description": f"{KINDS[0].upper()}{KINDS[1:]}, in base64.",
        }
    ),
]


class VisionInput(Frozen):
    """A picture: the bytes of a JPEG, PNG or WebP file; in JSON, base64. Its container has been looked at, its pixels
    haven't: a file that turns out to be damaged is refused when it is decoded."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": GREY_PNG}, {"image": RED_WEBP}]})

    image: ImageBytes = Field(repr=False)


class VisionOutput(Frozen):
    """The labels that were asked for, best first, and the size of the picture as it was sent, in pixels (before any turning
    that its EXIF data asks for)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"labels": [{"label": "Sneaker", "score": 0.97}], "width": 28, "height": 28}],
        }
    )

    labels: tuple[LabelScore, ...]
    width: int = Field(ge=1)
    height: int = Field(ge=1)


class VisionParams(Frozen):
    """How much of the answer to return: at most `top_k` labels (null for all) whose score is at least `threshold`. A null
    `threshold` is 0 for models with one label per picture and 0.5 for those with several."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"top_k": 1}, {"top_k": None, "threshold": 0.5}]})

    top_k: int | None = Field(default=5, ge=1)
    threshold: float | None = Field(default=None, ge=0, le=1)


class NetworkSettings(Frozen):
    """A residual network (He et al. 2015, https://arxiv.org/abs/1512.03385) of our own, for small pictures: a stem, then
    stages of blocks of two 3x3 convolutions. Each stage after the first halves the picture; the first may have no blocks."""

    stem_width: int = Field(default=32, ge=1)
    stem_kernel: int = Field(default=3, ge=1, le=11)
    stem_stride: int = Field(default=1, ge=1, le=4)
    widths: tuple[int, ...] = Field(default=(32, 64, 128), min_length=1)
    blocks: tuple[int, ...] = Field(default=(1, 1, 1), min_length=1)
    inner: tuple[int, ...] = ()
    """The channels between the two convolutions of each block, from the first stage on, where pruning left fewer than the
    stage's width; empty for as many everywhere."""
    first_bends: bool = False
    """The first block has a convolution on the way around it, though as many channels come as go; pruning can leave it so."""
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _one_number_a_stage(self) -> NetworkSettings:
        if len(self.widths) != len(self.blocks):
            raise ValueError(f"widths has {len(self.widths)} numbers and blocks {len(self.blocks)}; give one of each a stage")
        if min(self.widths) < 1 or min(self.blocks[1:], default=1) < 1 or self.blocks[0] < 0:
            raise ValueError("widths and blocks must be at least 1; only the first stage may have 0 blocks")
        if self.inner and (len(self.inner) != sum(self.blocks) or min(self.inner) < 1):
            raise ValueError(f"inner must have {sum(self.blocks)} numbers of at least 1, one for each block, or none")
        return self


class Augmentation(Frozen):
    """How pictures are changed in training, anew each time. Sizes are shares of a side."""

    shift: float = Field(default=0.125, ge=0, le=0.5)
    """Moves of up to so much each way; what comes in at the edge is the picture's reflection."""
    flip: bool = True
    """Half of the pictures are mirrored, left to right."""
    erase: float = Field(default=0.25, ge=0, le=1)
    """The share of pictures that get a blank square (Zhong et al. 2017, https://arxiv.org/abs/1708.04896)."""
    erase_size: float = Field(default=0.5, gt=0, le=1)
    """The longest side of that square."""


class TrainConfig(LoopConfig):
    """How to train an image classifier: a network of our own from noise, or a Hugging Face checkpoint further."""

    backbone: str = ""
    """A Hugging Face id or a local folder of an image classifier; empty for a network of our own."""
    frozen_backbone: bool = False
    """Train the checkpoint's head alone."""
    size: int = Field(default=32, ge=8, le=512)
    """Pixels a side that our own network looks at; a checkpoint's processor has its own."""
    channels: Literal[1, 3] = 3
    """Grey or colour, for our own network."""
    network: NetworkSettings = NetworkSettings()
    augmentation: Augmentation | None = Augmentation()
    mirrored: bool = False
    """Answer by the mean of the picture and its mirror image: better where left and right mean nothing, twice the work."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    head_learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)

    @model_validator(mode="after")
    def _something_to_freeze(self) -> TrainConfig:
        if self.frozen_backbone and not self.backbone:
            raise ValueError("frozen_backbone is set, but there is no backbone: a network of our own is trained whole")
        return self


class SavedVision(Frozen):
    """What an artifact's manifest keeps of an image classifier: how to put it together from its files.

    `form` is `own` (a network of ours) or `imported` (a Hugging Face checkpoint with its image processor). The rest down to
    `std` (per channel, of values from 0 to 1) belongs to `own`. With `external` the weights are in the files of the runtime
    that the artifact demands.
    """

    form: Literal["own", "imported"]
    labels: tuple[str, ...] = Field(min_length=1)
    multi_label: bool = False
    mirrored: bool = False
    network: NetworkSettings = NetworkSettings()
    size: int = Field(default=32, ge=1)
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    backbone: str = ""
    backbone_digest: str = ""
    external: bool = False
