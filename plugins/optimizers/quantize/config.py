"""What a user may ask of quantization. Imports no ML library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from taskloom.core.types import Frozen

Mode = Literal["static", "dynamic", "bf16", "int4", "fp8"]

RUNTIMES: dict[str, str] = {"static": "openvino", "dynamic": "onnx"}
"""The runtime that each kind of int8 is made for."""


class QuantizeConfig(Frozen):
    """`mode` is one of

    - `static`: int8 weights and activations, whose ranges are taken from training rows beforehand; for OpenVINO, the fastest;
    - `dynamic`: int8 weights, activations in int8 by the range that each input has; for ONNX Runtime, on any processor;
    - `bf16`: weights in half the bytes, rounded to 8 significant bits; any runtime, no speed of its own on processors without
      bf16 instructions.
    """

    mode: Mode = "static"
    runtime: Literal["auto", "openvino", "onnx", "any"] = "auto"
    """The runtime to make it for; each mode has one."""
    calibration_rows: int = Field(default=300, ge=1)
    """Training rows that ranges are taken from (static)."""
    max_drop: float = Field(default=0.005, ge=0, lt=1)
    """What the task's primary metric may lose on the validation rows, as a share of what it was. Where more is lost, layers
    that hurt most stay in fp32 until it is less."""
    search_s: float = Field(default=600.0, ge=0)
    """The time to look for these layers, in seconds; 0 takes what comes."""
    keep: tuple[str, ...] = ()
    """Layers to leave in fp32: regular expressions, found anywhere in a layer's path (`layer\\.0\\.attention`)."""
    any_processor: bool = True
    """Weights in 7 of the 8 bits, so that no sum of products overflows on x86 processors without VNNI instructions. With
    False, a little more exact where there are such, and not the same on all machines (static and dynamic)."""
    seed: int = Field(default=7, ge=0)
