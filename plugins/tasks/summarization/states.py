"""The backbone's states of the training texts, computed once: a backbone that isn't trained says the same in every epoch."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.optimizing import lock_of
from taskloom.plugins._shared.progress import TrainingProgress

BATCH_TOKENS = 4096
STATES = "states.f16"
PROGRESS = "progress.json"


class StateFile:
    """Half-precision states [T, H] of many documents, one after the other in a file that is mapped and not read whole.
    `fill` goes on where an interrupted one was. While one training uses the file, another has one of its own."""

    def __init__(self, folder: Path, documents: Sequence[str], model: Any) -> None:
        self.folder = folder
        self._model = model
        sizes = [self._tokens(document) for document in documents]
        ends = np.cumsum(sizes)
        self._places = {
            document: (int(end) - size, int(end)) for document, size, end in zip(documents, sizes, ends, strict=True)
        }
        self._documents = documents
        self._shape: tuple[int, int] = (int(ends[-1]), int(model.parts.hidden_size))

    @staticmethod
    def folder_for(parent: Path, documents: Sequence[str], model: Any) -> Path:
        """The same documents and encoder have the same folder."""
        identity = [model.saved.backbone_digest, model.saved.max_length, [sha256_hex(d.encode()) for d in documents]]
        return parent / f"states-{sha256_hex(canonical_json(identity))[:12]}"

    def _tokens(self, document: str) -> int:
        return int(self._model.parts.tokenizer.windows([document]).lengths.sum())

    def fill(self, device: torch.device, *, show_progress: bool) -> None:
        self._take_folder()
        try:
            self._fill(device, show_progress)
        except BaseException:
            self._let_go()
            raise

    def _fill(self, device: torch.device, show_progress: bool) -> None:
        done = self._done()
        mode: Literal["r+", "w+"] = "r+" if done else "w+"
        self._states = np.memmap(self.folder / STATES, dtype=np.float16, mode=mode, shape=self._shape)
        with TrainingProgress(len(self._documents), done, show=show_progress) as progress:
            while done < len(self._documents):
                count = self._next(done)
                self._run(self._documents[done : done + count], device)
                done += count
                self._mark(done)
                for _ in range(count):
                    progress.advance(0, 0.0)

    def _take_folder(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(lock_of(self.folder), os.O_RDWR | os.O_CREAT, 0o600)  # it stays: who removed it could not be told apart
        self._let_go = weakref.finalize(self, os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.folder = Path(tempfile.mkdtemp(prefix=f"{self.folder.name}-", dir=self.folder.parent))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.mkdir(exist_ok=True)

    def _next(self, done: int) -> int:
        """How many documents come next at a time."""
        count = tokens = 0
        for document in self._documents[done:]:
            start, end = self._places[document]
            if count and tokens + end - start > BATCH_TOKENS:
                break
            count, tokens = count + 1, tokens + end - start
        return count

    def _run(self, documents: Sequence[str], device: torch.device) -> None:
        found = self._model.parts.tokenizer.windows(list(documents))
        with torch.inference_mode():
            hidden = self._model.module(found.input_ids.to(device), found.token_type_ids.to(device), found.lengths.to(device))
        begin = self._places[documents[0]][0]
        self._states[begin : begin + len(hidden)] = hidden.half().cpu().numpy()

    def _done(self) -> int:
        try:
            state = json.loads((self.folder / PROGRESS).read_text())
            whole = os.path.getsize(self.folder / STATES) == 2 * self._shape[0] * self._shape[1]
        except (OSError, ValueError):
            return 0
        return int(state["documents"]) if whole else 0

    def _mark(self, done: int) -> None:
        self._states.flush()
        aside = self.folder / f".{PROGRESS}"
        aside.write_text(json.dumps({"documents": done}))
        os.replace(aside, self.folder / PROGRESS)

    def of(self, documents: Sequence[str]) -> Tensor:
        parts = [self._states[slice(*self._places[document])] for document in documents]
        return torch.from_numpy(np.concatenate(parts))

    def remove(self) -> None:
        (self.folder / PROGRESS).unlink(missing_ok=True)  # first: without it nobody goes on with what is left
        shutil.rmtree(self.folder, ignore_errors=True)
        self._let_go()
