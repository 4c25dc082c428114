"""Index files: written aside, put on stable storage and renamed; read only if they are what was written."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from taskloom.core.store import sync_path
from taskloom.plugins.retrieval.config import KnowledgeConfig
from taskloom.plugins.retrieval.dense import DenseIndex, VectorSource, library
from taskloom.plugins.retrieval.filters import Ints
from taskloom.plugins.retrieval.sparse import SparseIndex, write_sparse
from taskloom.plugins.retrieval.store import IndexRecord
from taskloom.plugins.retrieval.tokens import RULES

logger = logging.getLogger(__name__)

FOLDER = "indexes"
SPARSE = "sparse"


class DamagedIndexError(Exception):
    """An index file is not what was written. Caught where indexes are opened: the index is built anew."""


class IndexFiles:
    """The index files of one knowledge base. Names are never used twice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self.folder.mkdir(exist_ok=True)

    def write_dense(self, target: str, index: DenseIndex) -> IndexRecord:
        content = library.serialize_index(index.index).tobytes()
        name = f"dense-{secrets.token_hex(8)}.faiss"
        with self._aside(name) as aside:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.rename(self.folder / name)
        sync_path(self.folder)
        facts = {"kind": index.kind, "effort": index.effort, "recall": index.recall, "trained": index.trained}
        return IndexRecord(target, name, hashlib.sha256(content).hexdigest(), index.source.rows, facts)

    @contextmanager
    def _aside(self, name: str) -> Iterator[Path]:
        """Where a new index is made, to be renamed when it is whole. What could not be made whole takes no room."""
        aside = self.folder / f".{name}.new"
        try:
            yield aside
        except BaseException:
            if aside.is_dir():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.unlink(missing_ok=True)
            raise

    def read_dense(self, record: IndexRecord, source: VectorSource, config: KnowledgeConfig) -> DenseIndex:
        """Raises `DamagedIndexError`, before anything is made of the file, if it is not what was written."""
        try:
            content = (self.folder / record.path).read_bytes()
        except OSError as exc:
            raise DamagedIndexError(f"{record.path} cannot be read: {exc.strerror}") from exc
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise DamagedIndexError(f"{record.path} is not what was written")
        index = library.deserialize_index(np.frombuffer(content, np.uint8))
        facts = record.facts
        half = config.dtype == "float16"
        known = {name: facts[name] for name in ("effort", "recall", "trained")}
        return DenseIndex(facts["kind"], index, source, half=half, **known)

    def write_sparse(self, passages: Iterable[tuple[int, Sequence[str]]], rows: Ints) -> IndexRecord:
        name = f"sparse-{secrets.token_hex(8)}"
        with self._aside(name) as aside:
            aside.mkdir()
            count, length = write_sparse(aside, passages)
            for file in _contents(aside):
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            sync_path(aside)
            digest = _folder_digest(aside)
            aside.rename(self.folder / name)
        sync_path(self.folder)
        return IndexRecord(SPARSE, name, digest, rows[-1:], {"passages": count, "length": length, "rules": RULES})

    def read_sparse(self, record: IndexRecord) -> SparseIndex:
        """Raises `DamagedIndexError`, before anything is made of the files, if they are not what was written."""
        if record.facts.get("rules") != RULES:
            raise DamagedIndexError(f"{record.path} has tokens that an earlier release made by other rules")
        folder = self.folder / record.path
        try:
            digest = _folder_digest(folder)
        except OSError as exc:
            raise DamagedIndexError(f"{record.path} cannot be read: {exc.strerror}") from exc
        if digest != record.sha256:
            raise DamagedIndexError(f"{record.path} is not what was written")
        return SparseIndex(folder, int(record.rows[-1]), record.facts["length"])

    def keep_only(self, records: Iterable[IndexRecord]) -> None:
        """Deletes what no record names. An index that is still searched goes on: its pages stay until it is let go of."""
        kept = {record.path for record in records}
        for path in self.folder.iterdir():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _contents(folder: Path) -> list[Path]:
    """The files of a sparse index; its lock files, which come and go, say nothing."""
    return sorted(path for path in folder.iterdir() if path.suffix != ".lock")


def _folder_digest(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in _contents(folder):
        whole.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def disk_bytes(folder: Path) -> int:
    """The size of the files in a folder. One that vanishes meanwhile, as a compaction's old files do, counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total
