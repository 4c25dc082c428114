"""The teacher's answers on disk, so that epochs and resumed trainings don't ask for them again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

SHARD_ROWS = 256
LARGEST = 6e4
"""Half precision ends soon after; a logit of -6e4 is as impossible as one of -1e9."""

Rows = Mapping[str, tuple[Tensor, Tensor]]
"""By name: `values` [M, ...] of some rows, and `sizes`, how many of the M belong to each row."""


def as_kept(values: Tensor) -> Tensor:
    """In half precision, on the CPU."""
    return values.cpu().float().clamp(-LARGEST, LARGEST).half().contiguous()


@dataclass(frozen=True)
class _Shard:
    """A file that is open for reading, and where each row's values end in it, by name."""

    stream: Any
    ends: Mapping[str, Tensor]


class AnswerFile:
    """Answers to rows by their number, in half precision, in safetensors files of `SHARD_ROWS` rows each. Files of another
    `fingerprint`, or that can't be read, are made again. Rows are read when they are asked for."""

    def __init__(self, folder: Path, rows: int, fingerprint: str) -> None:
        self.folder = folder
        self.rows = rows
        self.fingerprint = fingerprint
        self._shards: list[_Shard] = []

    def fill(self, answer: Callable[[Sequence[int]], Rows]) -> int:
        """Makes the files that are missing, by asking for the rows of each, `as_kept`; returns how many were made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        made = 0
        for number, first in enumerate(range(0, self.rows, SHARD_ROWS)):
            path = self.folder / f"answers-{number:05d}.safetensors"
            shard = self._read(path)
            if shard is None:
                self._write(path, answer(range(first, min(first + SHARD_ROWS, self.rows))))
                shard = self._read(path)
                made += 1
            assert shard is not None
            self._shards.append(shard)
        return made

    def of(self, rows: Sequence[int]) -> Rows:
        """The answers to some rows, one after the other."""
        return {name: self._gathered(name, rows) for name in self._shards[0].ends}

    def _gathered(self, name: str, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        parts, sizes = [], []
        for row in rows:
            shard = self._shards[row // SHARD_ROWS]
            start, end = shard.ends[name][row % SHARD_ROWS : row % SHARD_ROWS + 2].tolist()
            parts.append(shard.stream.get_slice(f"values/{name}")[start:end])
            sizes.append(end - start)
        return torch.cat(parts).float(), torch.tensor(sizes)

    def _write(self, path: Path, found: Rows) -> None:
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        for name, (values, sizes) in found.items():
            tensors[f"values/{name}"] = values
            tensors[f"ends/{name}"] = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cpu().cumsum(0)])
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        save_file(tensors, aside, metadata={"fingerprint": self.fingerprint, "names": json.dumps(sorted(found))})
        os.replace(aside, path)

    def _read(self, path: Path) -> _Shard | None:
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            return None
        try:
            stream: Any = safe_open(path, framework="pt")
            told: Mapping[str, Any] = stream.metadata() or {}
            if told.get("fingerprint") != self.fingerprint:
                return None
            return _Shard(stream, {name: stream.get_tensor(f"ends/{name}") for name in json.loads(told["names"])})
        except (SafetensorError, OSError) as exc:
            log.warning("%s can't be read (%s); it is made again", path.name, exc)
            return None
