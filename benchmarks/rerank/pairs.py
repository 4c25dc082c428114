"""Pairs to train a re-ranker on, from questions that annotators asked about paragraphs (files in SQuAD's form).

    python benchmarks/rerank/pairs.py --data squadshifts/train.json --out pairs [--embedding embed-en --home FOLDER]
    taskloom train benchmarks/rerank/rank-en.toml

A question and a passage of its paragraph that holds an answer are `relevant`. `irrelevant` are hard negatives: the
passages of other paragraphs that search ranks highest, by words (BM25) and, with `--embedding`, by meaning, turn by turn; those
that hold an answer are passed over, since they may answer as well. Passages are cut, and read, as in a knowledge base. Writes
`pairs/train.jsonl` and `pairs/dev.jsonl`: a paragraph with its questions is in one of them, and negatives of `dev` may come
from any paragraph.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import taskloom.sdk
from taskloom.core.digest import sha256_hex
from taskloom.core.knowledge import Document, Embedded, Hit, KnowledgeBase, Mode, Passage, Query, View
from taskloom.core.knowledge_figures import KnownQuestion
from taskloom.plugins.retrieval.config import KnowledgeConfig
from taskloom.plugins.retrieval.evaluation import is_right, read_questions
from taskloom.plugins.retrieval.plugin import FaissRetriever
from taskloom.server.knowledge.models import RELEVANT

SPACE = "embedded"
BATCH = 500
POSITIVE_DEPTH = 20

Embed = Callable[[Sequence[str], str], Sequence[Any]]
"""`embed(texts, kind)`: float32 vectors [D] of length 1."""
Row = Mapping[str, str]


def main() -> None:
    asked = _arguments()
    questions = [question for question in read_questions(asked.data) if question.answers]
    drawn = random.Random(13).sample(questions, min(asked.questions or len(questions), len(questions)))
    if not asked.embedding:
        rows = write_pairs(asked.out, questions, drawn, negatives=asked.negatives, dev_share=asked.dev_share)
    else:
        with taskloom.sdk.local([asked.embedding], home=asked.home, timeout_s=600) as client:

            def embed(texts: Sequence[str], kind: str) -> Sequence[Any]:
                inputs = [{"text": text, "kind": kind} for text in texts]
                return [item.value().output["vector"] for item in client.infer_many(asked.embedding, inputs)]

            rows = write_pairs(asked.out, questions, drawn, embed, negatives=asked.negatives, dev_share=asked.dev_share)
    print(", ".join(f"{name}: {count} rows" for name, count in rows.items()))


def write_pairs(
    folder: Path,
    questions: Sequence[KnownQuestion],
    drawn: Sequence[KnownQuestion],
    embed: Embed | None = None,
    *,
    negatives: int,
    dev_share: float,
) -> dict[str, int]:
    """Writes the pairs of the questions `drawn`, among the paragraphs of all `questions`; how many rows each file has."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {"train": 0, "dev": 0}
    with ExitStack() as open_now:
        aside = Path(open_now.enter_context(tempfile.TemporaryDirectory()))
        view = open_now.enter_context(filled(aside / "base", questions, embed))
        files = {name: open_now.enter_context((folder / f"{name}.jsonl").open("w", encoding="utf-8")) for name in counts}
        for question in drawn:
            name = "dev" if held_out(question.context, dev_share) else "train"
            for row in pairs(view, question, embed, negatives):
                print(json.dumps(row, ensure_ascii=False), file=files[name])
                counts[name] += 1
    return counts


@contextmanager
def filled(folder: Path, questions: Sequence[KnownQuestion], embed: Embed | None) -> Iterator[View]:
    """A knowledge base of the questions' paragraphs, each a document under its digest."""
    with closing(FaissRetriever().create(folder, KnowledgeConfig())) as base:
        _fill(base, questions, embed)
        with base.view() as view:
            yield view


def _fill(base: KnowledgeBase, questions: Sequence[KnownQuestion], embed: Embed | None) -> None:
    contexts = list(dict.fromkeys(question.context for question in questions))
    for start in range(0, len(contexts), BATCH):
        documents = [
            Document(document_id=context_id(text), text=text, metadata={"context": context_id(text)})
            for text in contexts[start : start + BATCH]
        ]
        prepared = base.prepare(documents)
        vectors = embed([passage.searchable for passage in prepared.passages], "passage") if embed is not None else []
        placed = zip(prepared.passages, vectors, strict=True) if embed is not None else ()
        base.put(prepared, [Embedded(passage.passage_id, SPACE, vector) for passage, vector in placed])


def pairs(view: View, question: KnownQuestion, embed: Embed | None, negatives: int) -> Iterator[Row]:
    """The question's pairs, the relevant one first; none where no passage holds the whole of an answer."""
    own = _found(view, question, "sparse", POSITIVE_DEPTH, where={"context": context_id(question.context)})
    right = next((hit.passage for hit in own if is_right(question, hit.passage)), None)
    if right is None:
        return
    yield _row(question, right, RELEVANT)
    vector = embed([question.question], "query")[0] if embed is not None else None
    depth = 4 * negatives + POSITIVE_DEPTH
    ranked = [_found(view, question, "sparse", depth)]
    if vector is not None:
        ranked.append(_found(view, question, "dense", depth, vector=vector))
    in_turn = (hit.passage for hit in chain.from_iterable(zip_longest(*ranked)) if hit is not None)
    wrong = {passage.passage_id: passage for passage in in_turn if is_wrong(question, passage)}
    for passage in islice(wrong.values(), negatives):
        yield _row(question, passage, f"ir{RELEVANT}")


def is_wrong(question: KnownQuestion, passage: Passage) -> bool:
    """Whether a passage is of another paragraph and holds no answer."""
    text = passage.text.casefold()
    of_own = passage.document_id == context_id(question.context)
    return not of_own and not any(answer.casefold() in text for answer in question.answers)


def _found(
    view: View, question: KnownQuestion, mode: Mode, limit: int, *, vector: Any = None, where: Mapping[str, str] | None = None
) -> list[Hit]:
    vectors = {} if vector is None else {SPACE: vector}
    return view.search(Query(text=question.question, vectors=vectors, limit=limit, where=where, mode=mode))


def _row(question: KnownQuestion, passage: Passage, label: str) -> Row:
    return {"text": question.question, "text_pair": passage.readable, "label": label}


def context_id(text: str) -> str:
    return sha256_hex(text.encode())[:16]


def held_out(context: str, share: float) -> bool:
    """A paragraph is in the same part in every run."""
    return int(context_id(context), 16) % 1000 < 1000 * share


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a file in SQuAD's form")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write train.jsonl and dev.jsonl into")
    parser.add_argument("--questions", type=int, default=0, help="so many of them, drawn at random; 0: all")
    parser.add_argument("--negatives", type=int, default=4, help="for each relevant pair")
    parser.add_argument("--dev-share", type=float, default=0.05, help="of the paragraphs")
    parser.add_argument("--embedding", default="", help="a model to find negatives by meaning with, besides BM25")
    parser.add_argument("--home", type=Path, help="where that model is")
    return parser.parse_args()


if __name__ == "__main__":
    main()
