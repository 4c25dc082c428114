"""Reading data, learning which sentence says most, and measuring what was learnt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from taskloom.core.errors import DataError, ModelFailedError
from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.task import Example, TrainRun
from taskloom.plugins._shared.checkpoints import CHECKPOINT
from taskloom.plugins._shared.sentences import split_sentences
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.summarization.metrics import LEAD, MODEL, ORACLE, WHOLE, evaluate, judge
from taskloom.plugins.tasks.summarization.model import SentenceChooser
from taskloom.plugins.tasks.summarization.plugin import SummarizationTask
from taskloom.plugins.tasks.summarization.rouge import RougeTokenizer
from taskloom.plugins.tasks.summarization.schema import SummarizationInput, SummarizationParams, TrainConfig
from taskloom.plugins.tasks.summarization.states import StateFile
from taskloom.plugins.tasks.summarization.targets import ReferenceJudge
from taskloom.plugins.tasks.summarization.train import beginning, chosen_rows, first_tokens, read_examples, train
from taskloom.plugins.tasks.summarization.writing import SummaryWriter

DATA = Path(__file__).parents[2] / "data"
FAST: dict[str, Any] = {
    "epochs": 12,
    "batch_size": 8,
    "validation_fraction": 0,
    "head_learning_rate": 0.01,
    "ema_decay": 0.5,
    "dropout": 0.0,
    "head_size": 32,
    "max_length": 64,
}


def example(document: str, *references: str, line: int = 1, path: str = "d/rows.jsonl") -> Example[Any]:
    return Example(input=SummarizationInput(document=document), target=references, path=path, line=line)


def marked(count: int = 24) -> list[Example[Any]]:
    """The sentence with a refund is the summary, wherever it stands; of it, what is behind the comma says nothing."""
    rows = []
    for i in range(count):
        letter = "abcdefgh"[i % 8]
        said = f"My {letter} lost the order refund, where is hello"
        others = [f"The {letter} card is a card.", f"Hello, where is {letter}?", "Is a card the card?"]
        others.insert(i % 4, f"{said}.")
        rows.append(example(" ".join(others), f"{letter} lost order refund my the", line=i))
    return rows


def trained(rows: Sequence[Example[Any]], folder: Path, backbone: str, **settings: Any) -> Any:
    config = TrainConfig(backbone=backbone, **{**FAST, **settings})
    return train(config, rows, [], TrainRun(folder / "run", True, False))


def ready(model: Any) -> Predictor[Any, Any, Any]:
    runtime = TorchRuntime()
    plan = runtime.plan(RuntimeConfig(precision="fp32", device="cpu", threads=1))
    return Predictor(SummarizationTask(), model, runtime.load(model, None, plan))


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """On the bundled encoder: a random one has little to say about what a sentence means."""
    return trained(marked(), tmp_path_factory.mktemp("learnt"), DEFAULT_BACKBONE, epochs=30)


def test_it_learns_which_sentence_and_which_part_of_it(learnt: Any) -> None:
    rows = marked(8)
    predictor = ready(learnt.model)
    whole = predictor.predict([row.input for row in rows], [SummarizationParams(shorten=False)] * len(rows))
    assert sum("refund" in answer.summary for answer in whole) >= 7
    short = predictor.predict([row.input for row in rows])
    assert sum(answer.summary.endswith("refund") for answer in short) >= 7


def test_the_same_seed_gives_the_same_model_and_leaves_its_last_checkpoint_alone(tiny_bert: str, tmp_path: Path) -> None:
    first, again = (trained(marked(8), tmp_path / name, tiny_bert, epochs=2) for name in ("first", "again"))
    pairs = zip(first.model.module.parameters(), again.model.module.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert left == {CHECKPOINT}


def test_states_are_kept_for_the_next_training_where_that_is_asked(tiny_bert: str, tmp_path: Path) -> None:
    trained(marked(8), tmp_path, tiny_bert, epochs=1, keep_states=True)
    (states,) = tmp_path.glob("states-*/states.f16")
    before = states.stat().st_mtime_ns
    trained(marked(8), tmp_path, tiny_bert, epochs=2, keep_states=True)
    assert states.stat().st_mtime_ns == before


def test_kept_states_are_what_the_encoder_gives(tiny_bert: str, tmp_path: Path) -> None:
    model = SentenceChooser.build(backbone=tiny_bert, head_size=16, max_length=24)
    model.module.eval()
    documents = [row.input.document for row in marked(5)]
    states = StateFile(StateFile.folder_for(tmp_path, documents, model), documents, model)
    states.fill(torch.device("cpu"), show_progress=False)
    chosen = [documents[3], documents[0]]
    batch = model.encode([SummarizationInput(document=document) for document in chosen])
    with torch.inference_mode():
        direct = model.module(batch["input_ids"], batch["token_type_ids"], batch["lengths"])
    torch.testing.assert_close(states.of(chosen).float(), direct, atol=2e-3, rtol=2e-3)


def test_an_interrupted_reading_of_the_texts_goes_on(tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SentenceChooser.build(backbone=tiny_bert, head_size=16)
    model.module.eval()
    documents = [row.input.document for row in marked(6)]
    monkeypatch.setattr("taskloom.plugins.tasks.summarization.states.BATCH_TOKENS", 1)
    first = StateFile(tmp_path / "states", documents, model)
    run, calls = first._run, []

    def interrupted(part: Sequence[str], device: Any) -> None:
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(part)
        run(part, device)

    monkeypatch.setattr(first, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        first.fill(torch.device("cpu"), show_progress=False)
    second = StateFile(tmp_path / "states", documents, model)
    again: list[Any] = []
    monkeypatch.setattr(second, "_run", lambda part, device: (again.append(part), StateFile._run(second, part, device)))
    second.fill(torch.device("cpu"), show_progress=False)
    assert len(again) == 2
    whole = StateFile(tmp_path / "whole", documents, model)
    whole.fill(torch.device("cpu"), show_progress=False)
    torch.testing.assert_close(second.of(documents), whole.of(documents))


def test_two_trainings_on_the_same_texts_do_not_take_their_states_from_each_other(tiny_bert: str, tmp_path: Path) -> None:
    model = SentenceChooser.build(backbone=tiny_bert, head_size=16)
    model.module.eval()
    documents = [row.input.document for row in marked(3)]
    first, second = (StateFile(tmp_path / "states", documents, model) for _ in range(2))
    first.fill(torch.device("cpu"), show_progress=False)
    known = first.of(documents).clone()
    second.fill(torch.device("cpu"), show_progress=False)
    assert second.folder != first.folder
    torch.testing.assert_close(first.of(documents), known)
    second.remove()
    torch.testing.assert_close(first.of(documents), known)
    first.remove()
    first.remove()
    third = StateFile(tmp_path / "states", documents, model)
    third.folder.mkdir(exist_ok=True)
    (third.folder / "progress.json").write_text('{"documents": 3}')  # and no states: the machine went down between the two
    third.fill(torch.device("cpu"), show_progress=False)
    torch.testing.assert_close(third.of(documents), known)


def test_with_an_adapter_the_backbone_is_trained_too(tiny_bert: str, tmp_path: Path) -> None:
    found = trained(marked(8), tmp_path, tiny_bert, epochs=2, adapter={"r": 2}, validation_fraction=0.25)
    assert found.facts["validation_rows"] == 2
    assert all(0 <= row["rouge"] <= 1 for row in found.history)
    assert any(p.abs().sum() > 0 for name, p in found.model.module.named_parameters() if "lora_B" in name)


def test_a_writer_is_trained_by_the_same_command(writer_checkpoint: Callable[..., str], tmp_path: Path) -> None:
    rows = [example("the city buys buses", "city buys", line=i) for i in range(4)]
    config = TrainConfig(
        kind="seq2seq",
        backbone=writer_checkpoint("t5"),
        epochs=3,
        learning_rate=0.01,
        validation_fraction=0,
        training_tokens=64,
    )
    found = train(config, rows, [], TrainRun(tmp_path, True, False))
    assert found.history[-1]["loss"] < found.history[0]["loss"]


def test_a_writer_reads_the_whole_document_whatever_it_was_trained_on(
    writer_checkpoint: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt, collate = [], SummaryWriter.collate
    monkeypatch.setattr(SummaryWriter, "collate", lambda self, rows: learnt.append(collate(self, rows)) or learnt[-1])
    checkpoint, document = writer_checkpoint("t5"), "the city buys buses " * 20
    settings = {"kind": "seq2seq", "backbone": checkpoint, "epochs": 1, "validation_fraction": 0, "training_tokens": 16}
    model = train(TrainConfig(**settings), [example(document, "city buys")], [], TrainRun(tmp_path, True, False)).model
    assert {int(batch["lengths"].max()) for batch in learnt} == {17}, "and the end of the text"
    assert model.encode([SummarizationInput(document=document)])["lengths"].item() > 60
    short = first_tokens(example(document, "city buys"), model, 16).input.document
    assert document.startswith(short)
    assert len(model.tokenizer.pieces([short])[0].ids) == 16
    with pytest.raises(ValidationError, match="is trained whole"):
        TrainConfig(**settings, adapter={"r": 2})


# -- targets --------------------------------------------------------------------------------------------------------------


def test_sentences_are_worth_what_references_have_of_them() -> None:
    row = example("A dog ran home. The city buys buses, he said.", "city buys new buses", "nothing")
    scores, flags = ReferenceJudge(RougeTokenizer()).targets(row, split_sentences(row.input.document))
    assert scores[0] == 0
    assert scores[1] == pytest.approx((2 * 3 / (6 + 4) + 2 * 1 / (5 + 3)) / 2)
    text = row.input.document
    assert {text[i] for i in range(len(text)) if flags[i] < 0} <= set(" .,")
    assert "".join(letter for letter, flag in zip(text, flags.tolist(), strict=True) if flag == 1) == "citybuysbuses"


def test_chinese_characters_are_judged_one_by_one() -> None:
    row = example("市议会决定。", "市会")
    _, flags = ReferenceJudge(RougeTokenizer()).targets(row, split_sentences(row.input.document))
    assert flags.tolist() == [1, 0, 1, 0, 0, -1]


def test_documents_of_one_length_are_not_taken_for_each_other() -> None:
    judge = ReferenceJudge(RougeTokenizer())
    rows = [example(f"{first} {second}", "a dog") for first, second in (("A dog.", "A cat."), ("A cat.", "A dog."))]
    found = [judge.targets(row, split_sentences(row.input.document))[0].argmax().item() for row in rows]
    assert found == [0, 1]


def test_training_reads_the_first_sentences_that_fit(tiny_bert: str) -> None:
    model = SentenceChooser.build(backbone=tiny_bert, head_size=16)
    row = example("My card is lost. Where is the order? Hello.", "x")
    assert beginning(row, model, 100) == row
    assert beginning(row, model, 11).input.document == "My card is lost. Where is the order?"
    assert beginning(row, model, 1).input.document == "My card is lost."


def test_rows_are_chosen_from_each_file_by_the_seed() -> None:
    rows = [example("a", "b", line=i, path=f"{name}.jsonl") for name in "xy" for i in range(20)]
    some = chosen_rows(rows, 5, seed=1)
    assert [sum(row.path == f"{name}.jsonl" for row in some) for name in "xy"] == [5, 5]
    assert some == chosen_rows(rows, 5, seed=1) != chosen_rows(rows, 5, seed=2)
    assert chosen_rows(rows, 0, seed=1) == rows


# -- data files -----------------------------------------------------------------------------------------------------------


def test_real_rows_are_read_with_all_their_references() -> None:
    news = list(read_examples(DATA / "wikinews-sample.jsonl"))
    papers = list(read_examples(DATA / "scitldr-sample.jsonl"))
    assert (len(news), len(papers)) == (12, 12)
    assert all(len(row.target) == 1 for row in news)
    assert max(len(row.target) for row in papers) > 1


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"document": "a"}, "needs `summary`"),
        ({"document": "a", "summary": ""}, "needs `summary`"),
        ({"document": "a", "references": "b"}, "needs `summary`"),
        ({"document": "a", "references": []}, "needs `summary`"),
        ({"document": "a", "references": ["b", 1]}, "needs `summary`"),
        ({"document": " ", "summary": "b"}, "document: .*empty or blank"),
        ({"summary": "b"}, "'document' is missing"),
        ({"document": "a", "sumary": "b"}, "unknown field 'sumary'"),
    ],
)
def test_a_bad_row_is_named(row: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"document": "a", "summary": "b"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=told) as caught:
        list(read_examples(path))
    assert caught.value.line == 2


def test_tables_of_data_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("document,summary\n他来了。我走了。,他来\n")
    (row,) = read_examples(path)
    assert row.target == ("他来",)


# -- evaluation -----------------------------------------------------------------------------------------------------------


def test_a_report_shows_every_data_set_beside_its_baselines(learnt: Any) -> None:
    rows = [*marked(8), *read_examples(DATA / "scitldr-sample.jsonl")]
    result = evaluate(ready(learnt.model), rows)
    assert set(result.metrics) == {metric.name for metric in SummarizationTask.metrics} == set(result.intervals)
    table = {str(line[0]): line for line in result.tables["d/rows.jsonl"]}
    header = table["system"]
    for name in (MODEL, WHOLE, LEAD, "lead-3", ORACLE):
        assert len(table[name]) == len(header)
    score, low, high = (header.index(name) for name in ("rouge1", "low", "high"))
    assert table[MODEL][score] > table[LEAD][score]
    assert table[ORACLE][score] >= table[WHOLE][score]
    assert all(float(line[low]) <= float(line[score]) <= float(line[high]) for line in table.values() if line != header)
    gain = {str(line[0]): line for line in result.tables["d/rows.jsonl, model less lead-1"]}
    assert gain["rouge1"][1] == pytest.approx(float(table[MODEL][score]) - float(table[LEAD][score]), abs=0.02)
    assert float(gain["rouge1"][2]) > 0
    assert "data/scitldr-sample.jsonl" in result.tables


def test_files_are_measured_apart_where_there_are_several(learnt: Any) -> None:
    rows = [*marked(8), example("A dog ran home. The city buys buses.", "the city buys buses", path="e/rows.jsonl")]
    predictor = ready(learnt.model)
    header, one, other = evaluate(predictor, rows).tables["per_file"]
    assert [one[:2], other[:2]] == [("d/rows.jsonl", 8), ("e/rows.jsonl", 1)]
    alone = evaluate(predictor, rows[:8])
    assert "per_file" not in alone.tables
    named = dict(zip(header, one, strict=True))
    assert all(named[name] == round(value, 4) for name, value in alone.metrics.items())
    assert (named["rouge1_low"], named["rouge1_high"]) == pytest.approx(alone.intervals["rouge1"], abs=1e-4)


def test_lead_and_oracle_are_what_they_are_called(learnt: Any) -> None:
    rows = [example("A dog ran home. The city buys buses.", "the city buys buses")]
    judged = judge(ready(learnt.model), rows)
    assert judged.scores[ORACLE].tolist() == [[1.0, 1.0, 1.0]]
    assert judged.scores[LEAD].tolist() == [[0.0, 0.0, 0.0]]
    assert judged.words["lead-2"].tolist() == [8.0]


def test_a_row_that_the_model_can_not_take_is_named(learnt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = marked(3)
    predictor = ready(learnt.model)
    encode = predictor.model.encode

    def picky(items: Sequence[Any]) -> Any:
        if rows[1].input in items:
            raise ModelFailedError("not this one")
        return encode(items)

    monkeypatch.setattr(predictor.model, "encode", picky)
    with pytest.raises(DataError, match="line 1: not this one"):
        evaluate(predictor, rows)
