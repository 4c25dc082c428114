"""Signed checkpoints: what the chain's head was, said by someone who does not live in the database.

A line of `checkpoints.jsonl` is a JSON object with `sequence`, `digest`, `time_s`, `key_id` and `signature`: Ed25519 (hex)
over the canonical JSON of the other four. A chain that lost its tail, or was written anew, contradicts one of them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from taskloom.core.digest import canonical_json
from taskloom.core.types import Frozen
from taskloom.server.audit.keyring import SigningKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CHECKPOINTS = "checkpoints.jsonl"


class Checkpoint(Frozen):
    sequence: int = Field(ge=1)
    digest: str
    time_s: float
    key_id: str
    signature: str = ""

    def signed_bytes(self) -> bytes:
        return canonical_json(self.model_dump(exclude={"signature"}))

    def signed_by(self, keys: Mapping[str, Ed25519PublicKey]) -> bool:
        from cryptography.exceptions import InvalidSignature

        key = keys.get(self.key_id)
        if key is None:
            return False
        try:
            key.verify(bytes.fromhex(self.signature), self.signed_bytes())
        except (InvalidSignature, ValueError):
            return False
        return True


class CheckpointFile:
    """The file of checkpoints in a folder. Only ever appended to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / CHECKPOINTS

    def append(self, sequence: int, digest: str, time_s: float, key: SigningKey) -> Checkpoint:
        """Signs and appends; returns when it is on stable storage."""
        plain = Checkpoint(sequence=sequence, digest=digest, time_s=time_s, key_id=key.key_id)
        signed = plain.model_copy(update={"signature": key.sign(plain.signed_bytes()).hex()})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            end = _whole_lines(descriptor)  # a line that a crash tore was never relied on
            os.ftruncate(descriptor, end)
            os.pwrite(descriptor, canonical_json(signed.model_dump()) + b"\n", end)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return signed

    def read(self) -> Iterator[tuple[int, Checkpoint | None]]:
        """Line number and checkpoint of every whole line; None for a line that is none."""
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield number, Checkpoint.model_validate_json(line)
                except ValidationError:
                    yield number, None


def _whole_lines(descriptor: int) -> int:
    """The length of the file up to its last line end."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 4096)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
