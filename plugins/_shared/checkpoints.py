"""A training's state in one safetensors file: tensors by name, everything else as JSON in the file's header.

One file that is replaced by a rename is whole or not there, so a training that is killed at any moment finds its last
checkpoint. Safetensors holds no code, which `torch.save`, and so the optimizer and RNG files of ready-made trainers, can't
promise.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{CHECKPOINT}.{os.getpid()}"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    save_file(tensors, aside, metadata={"state": json.dumps(checkpoint.state)})
    with aside.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(aside, folder / CHECKPOINT)


def load_checkpoint(folder: Path, fingerprint: str = "") -> Checkpoint | None:
    """The checkpoint of the training with this fingerprint (settings and data), or of any; None if there is none. One that
    can't be read, or belongs to another training, is passed over with a warning and overwritten later."""
    from safetensors import SafetensorError, safe_open

    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as stream:
            state = json.loads((stream.metadata() or {})["state"])
            if fingerprint and state["fingerprint"] != fingerprint:
                log.warning("the checkpoint in %s is of other settings or data; training starts anew", folder)
                return None
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError, ValueError, OSError) as exc:
        log.warning("the checkpoint in %s can't be read (%s); training starts anew", folder, exc)
        return None
    return Checkpoint(tensors, state)
