"""Rates of whole entities, held against seqeval's strict ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2

from taskloom.core.errors import DataError, InvalidInputError
from taskloom.core.task import Example
from taskloom.plugins.tasks.ner.metrics import evaluate
from taskloom.plugins.tasks.ner.schema import Entity, NerInput, NerOutput
from taskloom.plugins.tasks.ner.tags import TagSet, WordSpan

LABELS = ("LOC", "ORG", "PER")
TAGS = TagSet.of(LABELS, "BIO")


class KnownAnswers:
    """A predictor whose answers were written down: for each text, entities or an error."""

    def __init__(self, answers: dict[str, Any], label_map: dict[str, str] | None = None) -> None:
        self.answers = answers
        self.model: Any = type("Model", (), {"labels": LABELS, "saved": type("Saved", (), {"label_map": label_map or {}})})

    def predict(self, inputs: Sequence[NerInput]) -> list[Any]:
        return [self.answers[item.text] for item in inputs]


def output(text: str, spans: Sequence[tuple[int, int, str]]) -> NerOutput:
    return NerOutput(entities=tuple(Entity(label=x, start=i, end=j, text=text[i:j], score=0.5) for i, j, x in spans))


def row(text: str, *target: tuple[int, int, str], path: str = "d.jsonl") -> Example[NerInput]:
    return Example(input=NerInput(text=text), target=target, path=path, line=3)


def random_spans(random_: random.Random, words: int) -> list[WordSpan]:
    found, at = [], 0
    while at < words:
        size = random_.randint(1, 3)
        if random_.random() < 0.4 and at + size <= words:
            found.append(WordSpan(at, at + size, random_.choice(LABELS)))
        at += size
    return found


def test_rates_are_those_of_seqeval() -> None:
    dice = random.Random(7)
    true, given, examples, answers = [], [], [], {}
    for number in range(60):
        size = dice.randint(1, 8)
        text = f"{number:02} " * size  # each word, with its blank, three characters
        spans = random_spans(dice, size)
        guess = [span for span in spans if dice.random() < 0.6] if dice.random() < 0.7 else random_spans(dice, size)
        true.append([TAGS.tags[tag] for tag in TAGS.spell(spans, size)])
        given.append([TAGS.tags[tag] for tag in TAGS.spell(guess, size)])
        places = [[(3 * s.start, 3 * s.end - 1, s.label) for s in part] for part in (spans, guess)]
        examples.append(row(text, *places[0]))
        answers[text] = output(text, places[1])
    report = classification_report(true, given, mode="strict", scheme=IOB2, output_dict=True)
    found = evaluate(KnownAnswers(answers), examples)  # type: ignore[arg-type]
    assert found.metrics["f1"] == pytest.approx(report["micro avg"]["f1-score"])
    assert found.metrics["precision"] == pytest.approx(report["micro avg"]["precision"])
    assert found.metrics["recall"] == pytest.approx(report["micro avg"]["recall"])
    assert found.metrics["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    for label, precision, recall, f1, support in found.tables["per_class"][1:]:
        theirs = report[str(label)]
        assert support == theirs["support"]
        assert (precision, recall, f1) == pytest.approx([theirs[k] for k in ("precision", "recall", "f1-score")], abs=1e-4)
    for name, (low, high) in found.intervals.items():
        assert low < found.metrics[name] < high


def test_each_file_has_a_row_and_labels_that_it_lacks_are_told_apart() -> None:
    examples = [
        row("Ada", (0, 3, "PER"), path="/data/tweets/dev.jsonl"),
        row("Bonn", (0, 4, "LOC"), path="/data/wiki/dev.jsonl"),
    ]
    answers = {"Ada": output("Ada", [(0, 3, "PER"), (0, 2, "ORG")]), "Bonn": output("Bonn", [])}
    table = evaluate(KnownAnswers(answers), examples).tables["per_file"]  # type: ignore[arg-type]
    rows = [dict(zip(table[0], values, strict=True)) for values in table[1:]]
    assert [(r["file"], r["f1"], r["f1_own"], r["own_labels"]) for r in rows] == [
        ("tweets/dev.jsonl", pytest.approx(2 / 3, abs=1e-4), 1.0, "PER"),
        ("wiki/dev.jsonl", 0.0, 0.0, "LOC"),
    ]


def test_errors_are_told_by_their_kind() -> None:
    text = "abcdefghij klm"
    true = [(0, 1, "PER"), (2, 3, "PER"), (4, 6, "PER"), (7, 8, "PER"), (8, 10, "LOC")]
    given = [(0, 1, "PER"), (2, 3, "ORG"), (4, 5, "PER"), (8, 9, "ORG"), (11, 13, "PER")]
    table = dict(evaluate(KnownAnswers({text: output(text, given)}), [row(text, *true)]).tables["errors"][1:])  # type: ignore[arg-type,call-overload]
    assert table == {
        "found": 1,
        "wrong label": 1,
        "wrong boundaries": 1,
        "wrong label and boundaries": 1,
        "missed": 1,
        "invented": 1,
    }


def test_labels_of_the_data_are_mapped_and_unknown_ones_named() -> None:
    answers = {"Ada": output("Ada", [(0, 3, "PER")])}
    found = evaluate(KnownAnswers(answers, {"person": "PER"}), [row("Ada", (0, 3, "person"))])  # type: ignore[arg-type]
    assert found.metrics["f1"] == 1.0
    with pytest.raises(DataError, match=r"line 3: the model has no label 'person'; it has LOC"):
        evaluate(KnownAnswers(answers), [row("Ada", (0, 3, "person"))])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="line 3: no"):
        evaluate(KnownAnswers({"Ada": InvalidInputError("no")}), [row("Ada")])  # type: ignore[arg-type]


def test_nothing_to_find_and_nothing_given_is_no_division_by_zero() -> None:
    assert evaluate(KnownAnswers({"a": output("a", [])}), [row("a")]).metrics["f1"] == 0.0  # type: ignore[arg-type]
