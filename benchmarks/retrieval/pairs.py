"""Pairs to train a re-ranker, an embedding model or a reader on, from questions that annotators asked about paragraphs
(files in SQuAD's form).

    python benchmarks/retrieval/pairs.py --data squadshifts/train.json --out pairs [--embedding embed-en --home FOLDER]
    taskloom train benchmarks/retrieval/rank-en.toml

    python benchmarks/retrieval/pairs.py --data cmrc2018/train.json drcd/train.json --out pairs --for embedding --negatives 1

    python benchmarks/retrieval/pairs.py --data squadshifts/train.json --out pairs --for reading --dev-share 0

A question and a passage of its paragraph that holds an answer are `relevant`. `irrelevant` are hard negatives: the
passages of other paragraphs that search ranks highest, by words (BM25) and, with `--embedding`, by meaning, turn by turn; those
that hold an answer are passed over, since they may answer as well. Passages are cut, and read, as in a knowledge base. Writes
`pairs/train.jsonl` and `pairs/dev.jsonl`: a paragraph with its questions is in one of them, and negatives of `dev` may come
from any paragraph.

`--for embedding` writes a row for each question: its passage, and as negatives besides these the passage of its own paragraph
that has most of its words and no answer.

`--for reading` writes two rows for a question: its passage with the answer, and one of its `--negatives`, drawn at random,
without any. Questions without one, or whose answer stands in no passage as a whole, have none.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import taskloom.sdk
from taskloom.core.digest import sha256_hex
from taskloom.core.knowledge import Document, Embedded, Hit, KnowledgeBase, Mode, Passage, Query, View
from taskloom.core.knowledge_figures import KnownQuestion
from taskloom.plugins._shared.squad import squad_questions
from taskloom.plugins.retrieval.config import KnowledgeConfig
from taskloom.plugins.retrieval.evaluation import is_right
from taskloom.plugins.retrieval.plugin import FaissRetriever
from taskloom.server.knowledge.models import RELEVANT

SPACE = "embedded"
BATCH = 500
POSITIVE_DEPTH = 20

Embed = Callable[[Sequence[str], str], Sequence[Any]]
"""`embed(texts, kind)`: float32 vectors [D] of length 1."""


class MarkedQuestion(KnownQuestion):
    """With the place in its context, in code points, where each of its answers was marked."""

    starts: tuple[int, ...] = ()


Row = Mapping[str, Any]
Form = Callable[[Sequence[tuple[MarkedQuestion, "Pairs"]]], Iterator[tuple[MarkedQuestion, Row]]]
"""The rows of questions, as a task's training reads them."""


def main() -> None:
    asked = _arguments()
    questions = [question for path in asked.data for question in marked_questions(path)]
    drawn = random.Random(13).sample(questions, min(asked.questions or len(questions), len(questions)))
    form = FORMS[asked.form]
    if not asked.embedding:
        rows = write_pairs(asked.out, questions, drawn, negatives=asked.negatives, dev_share=asked.dev_share, form=form)
    else:
        with taskloom.sdk.local([asked.embedding], home=asked.home, timeout_s=600) as client:

            def embed(texts: Sequence[str], kind: str) -> Sequence[Any]:
                inputs = [{"text": text, "kind": kind} for text in texts]
                return [item.value().output["vector"] for item in client.infer_many(asked.embedding, inputs)]

            rows = write_pairs(
                asked.out, questions, drawn, embed, negatives=asked.negatives, dev_share=asked.dev_share, form=form
            )
    print(", ".join(f"{name}: {count} rows" for name, count in rows.items()))


def marked_questions(path: Path) -> Iterator[MarkedQuestion]:
    """Those questions of a file in SQuAD's form that have answers."""
    for asked in squad_questions(path):
        given = () if asked.raw.get("is_impossible") else asked.raw.get("answers", ())
        marked = {answer["text"]: answer["answer_start"] for answer in given}
        if marked:
            yield MarkedQuestion(
                question=asked.question, context=asked.context, answers=tuple(marked), starts=tuple(marked.values())
            )


def write_pairs(
    folder: Path,
    questions: Sequence[MarkedQuestion],
    drawn: Sequence[MarkedQuestion],
    embed: Embed | None = None,
    *,
    negatives: int,
    dev_share: float,
    form: Form | None = None,
) -> dict[str, int]:
    """Writes the pairs of the questions `drawn`, among the paragraphs of all `questions`; how many rows each file has."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {"train": 0, "dev": 0}
    with ExitStack() as open_now:
        aside = Path(open_now.enter_context(tempfile.TemporaryDirectory()))
        view = open_now.enter_context(filled(aside / "base", questions, embed))
        files = {name: open_now.enter_context((folder / f"{name}.jsonl").open("w", encoding="utf-8")) for name in counts}
        asked = [(question, found_pairs(view, question, embed, negatives)) for question in drawn]
        known = [(question, found) for question, found in asked if found is not None]
        for question, row in (form or ranking_rows)(known):
            name = "dev" if held_out(question.context, dev_share) else "train"
            print(json.dumps(row, ensure_ascii=False), file=files[name])
            counts[name] += 1
    return counts


@contextmanager
def filled(folder: Path, questions: Sequence[MarkedQuestion], embed: Embed | None) -> Iterator[View]:
    """A knowledge base of the questions' paragraphs, each a document under its digest."""
    with closing(FaissRetriever().create(folder, KnowledgeConfig())) as base:
        _fill(base, questions, embed)
        with base.view() as view:
            yield view


def _fill(base: KnowledgeBase, questions: Sequence[MarkedQuestion], embed: Embed | None) -> None:
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


class Pairs(NamedTuple):
    """A passage that answers a question, and passages that do not: of other paragraphs, and the nearest of its own."""

    right: Passage
    others: Sequence[Passage]
    own: Sequence[Passage]


def found_pairs(view: View, question: MarkedQuestion, embed: Embed | None, negatives: int) -> Pairs | None:
    """None where no passage holds the whole of an answer."""
    own = _found(view, question, "sparse", POSITIVE_DEPTH, where={"context": context_id(question.context)})
    right = next((hit.passage for hit in own if is_right(question, hit.passage)), None)
    if right is None:
        return None
    vector = embed([question.question], "query")[0] if embed is not None else None
    depth = 4 * negatives + POSITIVE_DEPTH
    ranked = [_found(view, question, "sparse", depth)]
    if vector is not None:
        ranked.append(_found(view, question, "dense", depth, vector=vector))
    in_turn = (hit.passage for hit in chain.from_iterable(zip_longest(*ranked)) if hit is not None)
    wrong = {passage.passage_id: passage for passage in in_turn if is_wrong(question, passage)}
    beside = [hit.passage for hit in own if not _holds_answer(question, hit.passage)]
    return Pairs(right, list(islice(wrong.values(), negatives)), beside[:1])


def ranking_rows(known: Sequence[tuple[MarkedQuestion, Pairs]]) -> Iterator[tuple[MarkedQuestion, Row]]:
    """The relevant pair first. A passage of the same paragraph is about the same, so none of these is called irrelevant."""
    for question, found in known:
        yield question, _row(question, found.right, RELEVANT)
        for passage in found.others:
            yield question, _row(question, passage, f"ir{RELEVANT}")


def embedding_rows(known: Sequence[tuple[MarkedQuestion, Pairs]]) -> Iterator[tuple[MarkedQuestion, Row]]:
    right: dict[str, set[str]] = {}
    for question, found in known:
        right.setdefault(question.question, set()).add(found.right.searchable)
    for question, found in known:
        texts = [passage.searchable for passage in (*found.own, *found.others)]
        negatives = [text for text in texts if text not in right[question.question]]
        yield question, {"query": question.question, "positive": found.right.searchable, "negatives": negatives}


def reading_rows(known: Sequence[tuple[MarkedQuestion, Pairs]]) -> Iterator[tuple[MarkedQuestion, Row]]:
    draw = random.Random(13)
    for question, found in known:
        marked = answer_in(question, found.right)
        if found.others and marked:
            yield question, {"question": question.question, "context": found.right.text, "answers": [marked]}
            wrong = draw.choice(found.others)
            yield question, {"question": question.question, "context": wrong.text, "answers": []}


def answer_in(question: MarkedQuestion, passage: Passage) -> Row | None:
    """The first of a question's answers that stands in the passage, at the place nearest to where it was marked, since
    cleaning a context moves places. Where the passage has the same words elsewhere alone, these are taken: so it is with
    2.4% of the questions of CMRC 2018 and DRCD."""
    for answer, start in zip(question.answers, question.starts, strict=True):
        places = [match.start() for match in re.finditer(re.escape(answer), passage.text)]
        if places:
            return {"text": answer, "answer_start": min(places, key=lambda place: abs(passage.start + place - start))}
    return None


FORMS: Mapping[str, Form] = {"ranking": ranking_rows, "embedding": embedding_rows, "reading": reading_rows}


def is_wrong(question: MarkedQuestion, passage: Passage) -> bool:
    """Whether a passage is of another paragraph and holds no answer."""
    return passage.document_id != context_id(question.context) and not _holds_answer(question, passage)


def _holds_answer(question: MarkedQuestion, passage: Passage) -> bool:
    text = passage.text.casefold()
    return any(answer.casefold() in text for answer in question.answers)


def _found(
    view: View, question: MarkedQuestion, mode: Mode, limit: int, *, vector: Any = None, where: Mapping[str, str] | None = None
) -> list[Hit]:
    vectors = {} if vector is None else {SPACE: vector}
    return view.search(Query(text=question.question, vectors=vectors, limit=limit, where=where, mode=mode))


def _row(question: MarkedQuestion, passage: Passage, label: str) -> Row:
    return {"text": question.question, "text_pair": passage.readable, "label": label}


def context_id(text: str) -> str:
    return sha256_hex(text.encode())[:16]


def held_out(context: str, share: float) -> bool:
    """A paragraph is in the same part in every run."""
    return int(context_id(context), 16) % 1000 < 1000 * share


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, nargs="+", help="files in SQuAD's form")
    parser.add_argument("--for", dest="form", choices=sorted(FORMS), default="ranking", help="what is to be trained")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write train.jsonl and dev.jsonl into")
    parser.add_argument("--questions", type=int, default=0, help="so many of them, drawn at random; 0: all")
    parser.add_argument("--negatives", type=int, default=4, help="of other paragraphs, for each relevant pair")
    parser.add_argument("--dev-share", type=float, default=0.05, help="of the paragraphs")
    parser.add_argument("--embedding", default="", help="a model to find negatives by meaning with, besides BM25")
    parser.add_argument("--home", type=Path, help="where that model is")
    return parser.parse_args()


if __name__ == "__main__":
    main()
