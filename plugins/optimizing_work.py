"""Where chains keep their steps while they are made, and when that is removed."""

from __future__ import annotations

import fcntl
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from taskloom.core.artifact import Artifact
from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.optimizing import lock_of

DATABASE = "search.db"
"""A search's trials, in the folder of the chains that it makes."""
DIGITS = 12


def shared_folder(work_folder: Path, parent: Artifact, rows: Sequence[str]) -> Path:
    """Where chains on this model and these rows keep their steps."""
    identity = [parent.digest, *rows]
    return work_folder / f"{parent.manifest.model}-{sha256_hex(canonical_json(identity))[:DIGITS]}"


class SharedWork:
    """A folder while this chain, and perhaps others, work in it."""

    def __init__(self, folder: Path, handle: IO[str]) -> None:
        self._folder = folder
        self._handle = handle

    def drop(self, steps: Iterable[Path]) -> bool:
        """Removes steps that were left in the folder; whether it did, which it does not while others work there."""
        done = _alone(self._handle)
        for step in steps if done else ():
            shutil.rmtree(step, ignore_errors=True)
            lock_of(step).unlink(missing_ok=True)
        fcntl.flock(self._handle, fcntl.LOCK_SH)  # one that is not had alone is not held at all any more: flock(2)
        return done


@contextmanager
def shared_work(folder: Path, *, keep: bool = False, forget: bool = False) -> Iterator[SharedWork]:
    """Chains on the same model and data share their beginnings; the last one that is done removes what all have made, unless
    it is to be kept or a search has its trials there, which go with `forget`. An interrupted one leaves its steps to the
    next."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock_of(folder).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        folder.mkdir(exist_ok=True)  # whoever was waited for may have removed it
        yield SharedWork(folder, handle)
        if keep or ((folder / DATABASE).exists() and not forget):
            return
        if _alone(handle):
            shutil.rmtree(folder, ignore_errors=True)


def forget_searches(work_folder: Path, model: str) -> tuple[int, int]:
    """Removes what searches on any version of a model have left, whatever their data: how many were removed, and how many
    not, since somebody works there."""
    removed = busy = 0
    for folder in sorted(work_folder.glob(f"{model}-*")):
        if not re.fullmatch(rf"{re.escape(model)}-[0-9a-f]{{{DIGITS}}}", folder.name) or not (folder / DATABASE).exists():
            continue
        with lock_of(folder).open("w") as handle:
            if _alone(handle):
                shutil.rmtree(folder)
                removed += 1
            else:
                busy += 1
    return removed, busy


def _alone(handle: IO[str]) -> bool:
    """Whether nobody else holds the lock; then it is held alone until the file is closed."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
