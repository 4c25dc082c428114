"""What breaks knowledge bases: index files with flipped bits or cut short, and writers killed in the middle of anything.

    python benchmarks/knowledge_faults.py  # 1 000 damaged files, every tenth of a base that is opened; 100 killed writers
    python benchmarks/knowledge_faults.py --damages 60 --kills 6

It exits with 1 if a damaged file was used, an answer was wrong after it was refused, an acknowledged document was lost or a
version was there in part.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.core.knowledge import Document, Embedded, KnowledgeBase, Passage, Query
from taskloom.plugins.retrieval.config import KnowledgeConfig
from taskloom.plugins.retrieval.files import SPARSE, DamagedIndexError, IndexFiles
from taskloom.plugins.retrieval.incoming import vector_source
from taskloom.plugins.retrieval.plugin import FaissRetriever
from taskloom.plugins.retrieval.store import PassageStore

SPACE = "drawn"
SIZE = 32
TOGETHER = 4
"""Documents put in together: a version has all of a batch or none."""


def whole(document: Document) -> tuple[Document, list[Passage]]:
    """One passage for a document."""
    return document, [
        Passage(
            passage_id=f"{document.document_id}#0",
            document_id=document.document_id,
            text=document.text,
            start=0,
            end=len(document.text),
        )
    ]


def drawn_vector(text: str) -> Any:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)
    return vector / np.linalg.norm(vector)


def put(base: KnowledgeBase, documents: Sequence[Document]) -> int:
    prepared = base.prepare(documents)
    return base.put(prepared, [Embedded(one.passage_id, SPACE, drawn_vector(one.text)) for one in prepared.passages])


def answers(base: KnowledgeBase) -> list[Any]:
    """What some questions find, in full."""
    found: list[Any] = []
    with base.view() as view:
        for n in (3, 17, 42):
            text = f"passage {n} of topic{n % 5}"
            for mode in ("dense", "sparse", "hybrid"):
                query = Query(text, {SPACE: drawn_vector(text)}, limit=5, mode=mode)  # type: ignore[arg-type]
                found.append([(hit.passage.passage_id, round(hit.score, 5)) for hit in view.search(query)])
    return found


class Refusals(logging.Handler):
    """Counts the index files that were refused."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "index refused" in record.getMessage()


def damage(path: Path, rng: random.Random) -> str:
    """Flips one bit of a file, or cuts it short."""
    content = bytearray(path.read_bytes())
    if rng.random() < 0.2:
        path.write_bytes(content[: rng.randrange(len(content))])
        return f"{path.name} cut short"
    place = rng.randrange(len(content))
    content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"{path.name} byte {place}"


def index_files(folder: Path) -> list[Path]:
    """Those that have content; lock files come and go."""
    files = [path for path in sorted((folder / "indexes").rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return [path for path in files if path.stat().st_size]


def used(folder: Path) -> bool:
    """Whether all index files would be read."""
    store = PassageStore(folder)
    files, sizes = IndexFiles(folder), dict(store.spaces().values())
    try:
        for target, record in store.indexes().items():
            if target == SPARSE:
                files.read_sparse(record)
            else:
                space = int(target.removeprefix("dense:"))
                files.read_dense(record, vector_source(store, space, record.rows, sizes[space]), store.config)
    except DamagedIndexError:
        return False
    finally:
        store.close()
    return True


def damaged_indexes(folder: Path, times: int, seed: int = 0, kind: str = "hnsw", *, open_every: int = 1) -> list[str]:
    """Damages an index file again and again; each time it must be refused. Every so often the knowledge base is opened with it,
    which must build it anew and answer as before; else the file is put back. Returns what went wrong."""
    rng, failures = random.Random(seed), []
    retriever = FaissRetriever(whole)
    base = retriever.create(folder, KnowledgeConfig(delta_limit=0, index=kind))  # type: ignore[arg-type]
    put(base, [Document(document_id=f"d{n:04}", text=f"passage {n} of topic{n % 5}") for n in range(60)])
    base.compact()
    before = answers(base)
    base.close()
    refusals = Refusals()
    logger = logging.getLogger("taskloom.plugins.retrieval")
    logger.addHandler(refusals)
    try:
        for number in range(times):
            path = rng.choice(index_files(folder))
            sound = path.read_bytes()
            what = damage(path, rng)
            if number % open_every:
                failures += [f"{what}: used"] if used(folder) else []
                path.write_bytes(sound)
                continue
            refused = refusals.count
            base = retriever.open(folder)
            if refusals.count == refused:
                failures.append(f"{what}: used")
            if answers(base) != before:
                failures.append(f"{what}: other answers")
            base.close()
    finally:
        logger.removeHandler(refusals)
    return failures


def batch(number: int) -> list[Document]:
    return [Document(document_id=f"b{number:05}-{part}", text=f"batch {number} part {part}") for part in range(TOGETHER)]


def write_for_ever(folder: Path, start: int) -> None:
    """Puts batches in, and says of each that it is in; every fifth takes one out, every seventh goes back and puts it again."""
    base = FaissRetriever(whole).open(folder)
    for number in range(start, start + 10_000):
        version = put(base, batch(number))
        print(f"in {number}", flush=True)
        if number % 5 == 4:
            base.remove([document.document_id for document in batch(number)])
            print(f"out {number}", flush=True)
        if number % 7 == 6:
            base.rollback(version - 1)
            base.rollback(version)
            print(f"in {number}", flush=True)


def killed_writers(folder: Path, times: int, seed: int = 0, longest_s: float = 1.0) -> list[str]:
    """Kills a writing process at random moments; each time every acknowledged change must be there, and no batch in part.
    Returns what went wrong."""
    rng, failures = random.Random(seed), []
    retriever = FaissRetriever(whole)
    retriever.create(folder, KnowledgeConfig(delta_limit=20, keep_versions=5)).close()
    state: dict[int, bool] = {}
    start = 0
    for _ in range(times):
        command = [sys.executable, __file__, "--write", str(folder), "--start", str(start)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        stdout = writer.stdout
        if stdout is None:
            raise RuntimeError("the writer has no output")
        first = stdout.readline()  # so that it is not killed while it starts
        time.sleep(rng.random() * longest_s)
        writer.send_signal(signal.SIGKILL)
        lines = [first, *stdout.readlines()]
        writer.wait()
        stdout.close()
        said = [line.split() for line in lines if line.endswith("\n")]
        state.update((int(number), word == "in") for word, number in said)
        last = max(int(number) for _, number in said)
        base = retriever.open(folder)
        failures += check_batches(base, state, last)
        base.close()
        start = last + 2  # the one that was under way may be there or not
        if last % 5 == 4 or last % 7 == 6:
            state.pop(last, None)  # killed on its way out, or back: it may be either
    return failures


def check_batches(base: KnowledgeBase, state: dict[int, bool], last: int) -> list[str]:
    failures = []
    with base.view() as view:
        for number in range(last + 2):
            there = sum(view.document(document.document_id) is not None for document in batch(number))
            if there not in {0, TOGETHER}:
                failures.append(f"version {view.version} has {there} of {TOGETHER} documents of batch {number}")
            if number != last and number in state and (there > 0) != state[number]:
                failures.append(f"batch {number} was acknowledged as {'in' if state[number] else 'out'} and is not")
        if state.get(last) and last % 5 != 4 and last % 7 != 6 and view.document(batch(last)[0].document_id) is None:
            failures.append(f"batch {last}, the last one acknowledged, is lost")
        text = f"batch {last} part 1"
        view.search(Query(text, {SPACE: drawn_vector(text)}))
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--write", type=Path, help="for its own use: be the writer that is killed")
    parser.add_argument("--start", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.write:
        write_for_ever(arguments.write, arguments.start)
        return 0
    logging.getLogger("taskloom").addHandler(logging.NullHandler())
    folder, failures = Path(tempfile.mkdtemp(prefix="knowledge-")), []
    try:
        kinds = ("flat", "hnsw", "ivf", "ivf-rabitq")
        for at, kind in enumerate(kinds):
            times = arguments.damages // len(kinds)
            began = time.perf_counter()
            bad = damaged_indexes(folder / kind, times, seed=at, kind=kind, open_every=10)
            print(f"{kind}: {times} damaged files, {len(bad)} failures, {time.perf_counter() - began:.0f} s", flush=True)
            failures += bad
        began = time.perf_counter()
        bad = killed_writers(folder / "killed", arguments.kills)
        print(f"kill -9: {arguments.kills} writers, {len(bad)} failures, {time.perf_counter() - began:.0f} s", flush=True)
        failures += bad
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
