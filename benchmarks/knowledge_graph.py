"""What a graph beside the text adds to finding passages, on questions that annotators asked about paragraphs (SQuAD's form).

    python benchmarks/knowledge_graph.py --data squadshifts/dev.json --paragraphs 300 --questions 500 --home FOLDER

Documents go in as a user's do: split, embedded, names and relations extracted. Then the same questions are searched with the
graph and without it, in bases that differ in their settings alone, and the differences are printed with their 95% intervals
(paired bootstrap): of all questions, and of those for which the graph led to one of the passages found.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import taskloom.sdk
from taskloom.core.knowledge import Document, Embedded, KnowledgeBase, Mode, Query, View
from taskloom.core.knowledge_figures import Gain, KnownQuestion
from taskloom.core.settings import load_settings
from taskloom.plugins.retrieval.config import KnowledgeConfig
from taskloom.plugins.retrieval.evaluation import DEPTH, Places, gain_of, rank_metrics, rank_of_right
from taskloom.plugins.retrieval.filters import Bools
from taskloom.plugins.retrieval.plugin import FaissRetriever

BASE = "graph-benchmark"
EMBEDDING, NAMES, RELATIONS = "embed-en", "ner-en", "relation-en@1"
BATCH = 100
SHOWN = ("recall@1", "recall@5", "recall@20", "mrr")
DEFAULTS = KnowledgeConfig()


@dataclass(frozen=True)
class Asked:
    """A question with what models say of its text."""

    known: KnownQuestion
    vectors: dict[str, Any]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Material:
    """What bases are built from, and asked: all that models have to say."""

    documents: list[Document]
    space: str
    vectors: dict[str, Any]
    extractors: tuple[str, ...]
    asked: list[Asked]


def main() -> None:
    given = _arguments()
    documents, questions = _read(given.data, given.paragraphs, given.questions)
    with taskloom.sdk.local([EMBEDDING, NAMES, RELATIONS], home=given.home, timeout_s=3600) as client:
        _build(client, documents)
        material = _material(client, documents, questions)
    content = load_settings(overrides={"home": str(given.home)}).knowledge_folder / "default" / BASE / "content"
    with closing(FaissRetriever().open(content)) as source, tempfile.TemporaryDirectory() as folder:
        for number, (hops, weight) in enumerate((hops, weight) for hops in given.hops for weight in given.weights):
            config = KnowledgeConfig(graph=True, graph_hops=hops, graph_weight=weight)
            with closing(_variant(source, material, Path(folder) / str(number), config)) as base, base.view() as view:
                if number == 0:
                    _tell_size(view, material)
                _report(view, material, f"hops {hops}, weight {weight}")


def _build(client: taskloom.sdk.LocalClient, documents: Sequence[Document]) -> None:
    if BASE not in [info.base for info in client.knowledge_bases()]:
        client.create_knowledge(BASE, config={"graph": True})
    base, began = client.knowledge(BASE), time.perf_counter()
    for start in range(0, len(documents), BATCH):
        base.upsert(documents[start : start + BATCH], timeout_s=3600)
        print(f"{start + BATCH} documents after {time.perf_counter() - began:.0f} s", flush=True)
    print(base.stats().stats.model_dump_json(), flush=True)


def _material(client: taskloom.sdk.LocalClient, documents: Sequence[Document], questions: Sequence[KnownQuestion]) -> Material:
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(FaissRetriever().create(Path(folder) / "split", DEFAULTS)) as splitting,
    ):
        passages = splitting.prepare(documents).passages
    spoken = [question.question for question in questions]
    places = _answers(client, EMBEDDING, [{"text": one.searchable, "kind": "passage"} for one in passages])
    asked = _answers(client, EMBEDDING, [{"text": text, "kind": "query"} for text in spoken])
    names = _answers(client, NAMES, [{"text": text} for text in spoken])
    versions = {model: client.describe(model).info for model in (EMBEDDING, "ner-en", "relation-en")}
    space = f"{EMBEDDING}@{versions[EMBEDDING].version}"
    return Material(
        list(documents),
        space,
        {passage.passage_id: _array(place) for passage, place in zip(passages, places, strict=True)},
        tuple(f"{info.name}@{info.version}" for name, info in versions.items() if name != EMBEDDING),
        [
            Asked(question, {space: _array(vector)}, tuple(entity["text"] for entity in found["entities"]))
            for question, vector, found in zip(questions, asked, names, strict=True)
        ],
    )


def _answers(client: taskloom.sdk.LocalClient, model: str, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for item in client.infer_many(model, inputs):
        assert item.result is not None, item.error
        found.append(dict(item.result.output))
    return found


def _array(output: dict[str, Any]) -> Any:
    return np.asarray(output["vector"], np.float32)


def _variant(source: KnowledgeBase, material: Material, folder: Path, config: KnowledgeConfig) -> KnowledgeBase:
    """A base of the same documents with other settings: what models said of them is taken from the first one."""
    base = FaissRetriever().create(folder, config)
    prepared = base.prepare(material.documents)
    known = source.known_extractions(prepared.passages, {"en": material.extractors})
    assert len(known) == len(prepared.passages), (len(known), len(prepared.passages))
    vectors = [Embedded(one.passage_id, material.space, material.vectors[one.passage_id]) for one in prepared.passages]
    base.put_extracted(prepared, vectors, list(known.values()))
    return base


def _tell_size(view: View, material: Material) -> None:
    stats = view.stats()
    print(f"{stats.documents} documents, {stats.passages} passages, {len(material.asked)} questions; graph: {stats.graph}")
    hybrid = rank_metrics(_places(view, material, "hybrid")[0])
    print("without: " + ", ".join(f"{name} {hybrid[name]:.3f}" for name in SHOWN), flush=True)


def _report(view: View, material: Material, what: str) -> None:
    without, _, _ = _places(view, material, "hybrid")
    places, led, right = _places(view, material, "graph")
    told = rank_metrics(places)
    print(f"{what}: " + ", ".join(f"{name} {told[name]:.3f}" for name in SHOWN))
    print(f"  less without, of all: {_gain(gain_of(places, without))}")
    if led.any():
        several = f"{int(led.sum())} that it led somewhere, to the right passage in {int(right.sum())}"
        print(f"  of the {several}: {_gain(gain_of(places[led], without[led]))}", flush=True)


def _gain(gain: Gain) -> str:
    told = ((name, gain.metrics[name], *gain.intervals[name]) for name in SHOWN)
    return ", ".join(f"{name} {value:+.3f} ({low:+.3f} to {high:+.3f})" for name, value, low, high in told)


def _places(view: View, material: Material, mode: Mode) -> tuple[Places, Bools, Bools]:
    """The right passage's rank for each question; for which ones the graph led to one of the passages found; and for which to
    the right one."""
    ranks, led, right = [], [], []
    for one in material.asked:
        query = Query(one.known.question, one.vectors, limit=DEPTH, mode=mode, entities=one.names)
        hits = view.search(query)
        ranks.append(rank_of_right(one.known, hits) or np.inf)
        by_graph = [hit for hit in hits if hit.graph is not None]
        led.append(bool(by_graph))
        right.append(rank_of_right(one.known, by_graph) is not None)
    return np.array(ranks, np.float64), np.array(led), np.array(right)


def _read(path: Path, paragraphs: int, questions: int) -> tuple[list[Document], list[KnownQuestion]]:
    """The same paragraphs and questions each time."""
    every = list(_paragraphs(path))
    chosen = random.Random(13).sample(every, min(paragraphs, len(every)))
    asked = [question for _, several in chosen for question in several]
    return [document for document, _ in chosen], random.Random(13).sample(asked, min(questions, len(asked)))


def _paragraphs(path: Path) -> Iterator[tuple[Document, list[KnownQuestion]]]:
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    rows = (paragraph for article in data for paragraph in article["paragraphs"])
    for number, paragraph in enumerate(rows):
        document = Document(document_id=f"p{number:04}", text=paragraph["context"], language="en")
        yield (
            document,
            [
                KnownQuestion(
                    question=row["question"],
                    document_id=document.document_id,
                    answers=tuple(dict.fromkeys(answer["text"] for answer in row["answers"])),
                )
                for row in paragraph["qas"]
                if row["answers"]
            ],
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--paragraphs", type=int, default=300)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--hops", type=int, nargs="+", default=[DEFAULTS.graph_hops], choices=(0, 1, 2))
    parser.add_argument("--weights", type=float, nargs="+", default=[DEFAULTS.graph_weight])
    parser.add_argument("--home", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
