"""Knowledge bases of 100 000 passages, and a million vectors: latency, recall, build rate and size, beside the exact search.

    OMP_NUM_THREADS=1 python benchmarks/knowledge_index.py passages [--count 100000] [--kind auto]
    OMP_NUM_THREADS=1 python benchmarks/knowledge_index.py vectors  [--count 1000000] [--kind auto]

Vectors are drawn: 384 dimensions, around 2 000 topics in 48 directions of falling variance, and noise in all of them, which
gives neighbours about as far as those of sentence embeddings are. Texts are drawn from Zipf's law over 50 000 words, 40 to
120 a passage; questions are 8 words of one passage. Wall-clock times depend on what else the machine does: the processor time
of the searching thread is printed beside them, and the load.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.core.knowledge import Document, Embedded, Hit, KnowledgeBase, Mode, Passage, Prepared, Query, View
from taskloom.plugins.retrieval.config import KnowledgeConfig
from taskloom.plugins.retrieval.dense import DenseIndex, VectorSource, build, exact_neighbours
from taskloom.plugins.retrieval.plugin import FaissRetriever

SIZE, TOPICS, DIRECTIONS = 384, 2000, 48
WORDS = 50_000
SPACE = "drawn@1"
QUESTIONS = 300


class Drawing:
    """Where the vectors are drawn from."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        falling = (np.arange(1, DIRECTIONS + 1) ** -0.5).astype(np.float32)
        self._topics = rng.standard_normal((TOPICS, DIRECTIONS)).astype(np.float32) * 1.5 * falling
        self._directions = rng.standard_normal((DIRECTIONS, SIZE)).astype(np.float32) * falling[:, None]

    def vectors(self, count: int, seed: int) -> Any:
        """Unit vectors [count, 384]."""
        rng = np.random.default_rng(seed)
        within = self._topics[rng.integers(TOPICS, size=count)]
        within = within + 0.7 * rng.standard_normal(within.shape, dtype=np.float32)
        drawn = within @ self._directions + 0.15 * rng.standard_normal((count, SIZE), dtype=np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def drawn_texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    chances = np.cumsum(1 / np.arange(1, WORDS + 1))
    words = np.array([f"w{n}" for n in range(WORDS)])
    lengths = rng.integers(40, 120, count)
    return [" ".join(words[np.searchsorted(chances, rng.random(length) * chances[-1])]) for length in lengths]


def memory_bytes() -> int:
    """What this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def timed(name: str, work: Callable[[int], object], times: int = QUESTIONS) -> None:
    """Runs some work for each question and prints how long it took."""
    for n in range(min(20, times // 3)):
        work(n)
    walls, processor = [], []
    for n in range(times):
        began, used = time.perf_counter(), time.thread_time()
        work(n)
        walls.append(time.perf_counter() - began)
        processor.append(time.thread_time() - used)
    wall, cpu = np.percentile(walls, [50, 99]) * 1e3, np.percentile(processor, [50, 99]) * 1e3
    print(f"| {name} | {wall[0]:.2f} | {wall[1]:.2f} | {cpu[0]:.2f} | {cpu[1]:.2f} | {os.getloadavg()[0]:.1f} |", flush=True)


def header(title: str) -> None:
    print(f"\n| {title} | p50 ms | p99 ms | CPU p50 ms | CPU p99 ms | load |\n|---|---|---|---|---|---|")


def recall(found: Sequence[Sequence[int]], truth: Any) -> float:
    return float(np.mean([len(set(one) & set(other)) / len(other) for one, other in zip(found, truth.tolist(), strict=True)]))


def passages(count: int, kind: str, folder: Path) -> None:
    """A whole knowledge base, through its own door."""
    drawing = Drawing()
    vectors, questions = drawing.vectors(count, 1), drawing.vectors(QUESTIONS, 2)
    texts = drawn_texts(count)
    rng = np.random.default_rng(3)
    asked = [" ".join(rng.choice(texts[int(rng.integers(count))].split(), 8)) for _ in range(QUESTIONS)]
    base = FaissRetriever().create(folder / "base", KnowledgeConfig(index=kind, delta_limit=4 * count))  # type: ignore[arg-type]
    began = time.perf_counter()
    for at in range(0, count, 10_000):
        put(base, texts[at : at + 10_000], vectors[at : at + 10_000], at)
    print(f"put: {count / (time.perf_counter() - began):.0f} passages/s")
    base.close()
    set_delta_limit(folder / "base", 4000)
    before = memory_bytes()
    base = FaissRetriever().open(folder / "base")
    began, used = time.perf_counter(), time.process_time()
    base.compact()
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    print(f"indexes built: {count / wall:.0f} passages/s ({count / cpu:.0f} per CPU second)")
    base.close()
    began = time.perf_counter()
    base = FaissRetriever().open(folder / "base")
    print(f"opened in {time.perf_counter() - began:.2f} s")
    with base.view() as view:
        stats = view.stats()
        index = stats.indexes[0]
        print(f"{index.kind}: recall@10 at build {index.recall:.3f}, {index.memory_bytes / 1e6:.0f} MB of memory")
        files = sum(path.stat().st_size for path in (folder / "base" / "indexes").rglob("*") if path.is_file())
        grown = memory_bytes() - before
        print(f"disk: {stats.disk_bytes / 1e6:.0f} MB (indexes {files / 1e6:.0f} MB); process +{grown / 1e6:.0f} MB")
        source = VectorSource(np.arange(count), SIZE, lambda rows: vectors[rows])
        truth = exact_neighbours(source, questions, 10)
        measure(view, asked, questions, vectors, truth)
    updates(base, texts, drawing)
    base.close()


def measure(view: View, asked: Sequence[str], questions: Any, vectors: Any, truth: Any) -> None:
    def ask(n: int, mode: Mode, where: dict[str, Any] | None = None) -> list[Hit]:
        return view.search(Query(asked[n], {SPACE: questions[n]}, limit=10, mode=mode, where=where))

    found = [[int(hit.passage.document_id) for hit in ask(n, "dense")] for n in range(QUESTIONS)]
    print(f"recall@10 against the exact search: {recall(found, truth):.4f}")
    for share in ("tenth", "thousandth"):
        allowed = np.arange(len(vectors)) % (10 if share == "tenth" else 1000) == 0
        among = [np.flatnonzero(allowed)[np.argsort(-(vectors[allowed] @ question))[:10]] for question in questions[:50]]
        hits = [[int(hit.passage.document_id) for hit in ask(n, "dense", {share: True})] for n in range(50)]
        print(f"recall@10 among a {share} of the passages: {recall(hits, np.array(among)):.4f}")
    header("search")
    for mode in ("dense", "sparse", "hybrid"):
        timed(mode, lambda n, mode=mode: ask(n, mode))  # type: ignore[misc]
    for share in ("tenth", "thousandth"):
        timed(f"hybrid among a {share}", lambda n, share=share: ask(n, "hybrid", {share: True}))  # type: ignore[misc]
    timed("exact (a matrix product, float32)", lambda n: np.argpartition(vectors @ questions[n], -10)[-10:], 60)


def updates(base: KnowledgeBase, texts: Sequence[str], drawing: Drawing) -> None:
    """What a change costs beside so many passages, and a search with the newest passages outside the index."""
    fresh = drawing.vectors(400, 5)
    header("change")
    timed("put of one passage", lambda n: put(base, [f"{texts[n]} x"], fresh[n % 400 : n % 400 + 1], 10_000_000 + n), 100)
    with base.view() as view:
        timed("hybrid, 120 passages later", lambda n: view.search(Query(texts[n][:40], {SPACE: fresh[n % 400]})), 100)


def put(base: KnowledgeBase, texts: Sequence[str], vectors: Any, start: int) -> int:
    documents, passages_of, embedded = [], [], []
    for number, (text, vector) in enumerate(zip(texts, vectors, strict=True), start=start):
        name = f"{number}#0"
        facts = {"tenth": number % 10 == 0, "thousandth": number % 1000 == 0}
        documents.append(Document(document_id=str(number), text=text, metadata=facts))
        passages_of.append(
            Passage(passage_id=name, document_id=str(number), text=text, start=0, end=len(text), language="en", metadata=facts)
        )
        embedded.append(Embedded(name, SPACE, vector))
    return base.put(Prepared(documents=tuple(documents), passages=tuple(passages_of)), embedded)


def set_delta_limit(folder: Path, limit: int) -> None:
    """Loading was to build no indexes on the way."""
    import sqlite3

    connection = sqlite3.connect(folder / "knowledge.sqlite")
    config = KnowledgeConfig.model_validate_json(connection.execute("select value from settings").fetchone()[0])
    changed = config.model_copy(update={"delta_limit": limit}).model_dump_json()
    connection.execute("update settings set value = ? where name = 'config'", (changed,))
    connection.commit()
    connection.close()


def many_vectors(count: int, kind: str, folder: Path) -> None:
    """One index over vectors that lie on disk, as a knowledge base's do: what it needs in memory is the index."""
    drawing = Drawing()
    stored = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float16, (count, SIZE))
    for at in range(0, count, 50_000):
        stored[at : at + 50_000] = drawing.vectors(min(50_000, count - at), 100 + at)
    stored.flush()
    source = VectorSource(np.arange(count), SIZE, lambda rows: np.asarray(stored[rows], np.float32))
    questions = drawing.vectors(QUESTIONS, 2)
    began, used = time.perf_counter(), time.process_time()
    index = build(source, KnowledgeConfig(index=kind))  # type: ignore[arg-type]
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    print(f"{index.kind}: {count} vectors at {count / wall:.0f}/s ({count / cpu:.0f} per CPU second), effort {index.effort}")
    print(f"memory of the index {index.memory_bytes / 1e6:.0f} MB, as a file {file_bytes(index) / 1e6:.0f} MB")
    truth = exact_neighbours(source, questions, 10)
    found = []
    for question in questions:
        places, scores = index.search(question, 10)
        found.append(places[np.lexsort((places, -scores))][:10].tolist())
    print(f"recall@10 at build {index.recall:.3f}, against the exact search {recall(found, truth):.4f}")
    header("search")
    timed(f"{index.kind}, 10 of {count}", lambda n: index.search(questions[n], 10))
    half = np.arange(count) % 2 == 0
    timed(f"{index.kind}, among half", lambda n: index.search(questions[n], 10, half))
    timed("exact (chunks from disk, float32)", lambda n: exact_neighbours(source, questions[n : n + 1], 10), 3)


def file_bytes(index: DenseIndex) -> int:
    import faiss

    library: Any = faiss
    return int(library.serialize_index(index.index).nbytes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=["passages", "vectors"])
    parser.add_argument("--count", type=int)
    parser.add_argument("--kind", default="auto", choices=["auto", "flat", "hnsw", "ivf", "ivf-rabitq"])
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    folder = Path(tempfile.mkdtemp(prefix="knowledge-"))
    try:
        if arguments.what == "passages":
            passages(arguments.count or 100_000, arguments.kind, folder)
        else:
            many_vectors(arguments.count or 1_000_000, arguments.kind, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
