"""Bases that re-rank and write with real models: tiny checkpoints, imported and asked in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from served_knowledge import local_client
from tiny_checkpoints import make_checkpoint, make_writer

from taskloom.core.errors import TaskloomError, unknown_name
from taskloom.core.knowledge import Hit
from taskloom.core.knowledge_calls import AnswerConfig, KnowledgeAnswer
from taskloom.core.loader import load_registry
from taskloom.core.ports import PartSink
from taskloom.core.predictor import Predictor, validated
from taskloom.core.registry import Registry
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.settings import KnowledgeSettings, LanguageModels, load_settings
from taskloom.core.types import InferCall, InferResult, ModelDescription, ModelInfo, ModelRef
from taskloom.plugins.retrieval.plugin import FaissRetriever
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.plugin import ClassificationTask
from taskloom.plugins.tasks.qa.model import QaModel
from taskloom.plugins.tasks.qa.plugin import QaTask
from taskloom.plugins.tasks.summarization.model import SentenceChooser
from taskloom.plugins.tasks.summarization.plugin import SummarizationTask
from taskloom.plugins.tasks.summarization.writing import SummaryWriter
from taskloom.sdk import InvalidInputError, LocalClient, UnsupportedError
from taskloom.server.knowledge.answering import relevance
from taskloom.server.knowledge.desk import KnowledgeDesk

CARDS = {
    "lost": "A lost card is blocked at once. Is my card lost? Order a refund.",
    "order": "The order of a card is done by the bank.",
    "refund": "A refund for a card order comes in a week.",
    "long": "My card is here. " * 200,
}
QUESTION = "where is my lost card order?"
ZH = "我的银行卡丢了怎么办"


class DirectEngine:
    """Real models, each asked for one input at a time, with no scheduler before them."""

    def __init__(self) -> None:
        self._models: dict[str, Predictor[Any, Any, Any]] = {}

    def add(self, name: str, task: Any, model: Any) -> None:
        runtime = TorchRuntime()
        plan = runtime.plan(RuntimeConfig(precision="fp32", device="cpu", threads=1))
        self._models[name] = Predictor(task, model, runtime.load(model, None, plan))

    def ask(self, name: str, params: Mapping[str, Any] | None = None, send: PartSink | None = None, /, **given: Any) -> Any:
        """The output."""
        predictor = self._models[name]
        own = validated(predictor.task.Input, given, "input")
        wanted = validated(predictor.task.Params, params or {}, "params")
        if send is not None and predictor.model.streams:
            return predictor.stream(own, send, wanted)
        answer = predictor.predict([own], [wanted])[0]
        if isinstance(answer, TaskloomError):
            raise answer
        return answer

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def infer(self, call: InferCall, send: PartSink | None = None) -> InferResult:
        output = self.ask(call.model.name, call.params, send, **call.input).model_dump(mode="json")
        task = self._models[call.model.name].task.name
        return InferResult(request_id=call.request_id, model=call.model.name, version="1", task=task, output=output)

    def models(self) -> list[ModelInfo]:
        return [ModelInfo(name=name, version="1", task=own.task.name) for name, own in self._models.items()]

    def describe(self, ref: ModelRef) -> ModelDescription:
        if ref.name not in self._models:
            raise unknown_name("model", ref.name, self._models)
        task = self._models[ref.name].task
        info = ModelInfo(name=ref.name, version="1", task=task.name)
        return ModelDescription(info=info, input_schema=task.Input.model_json_schema(), output_schema={}, params_schema={})


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> DirectEngine:
    home, made = tmp_path_factory.mktemp("checkpoints"), DirectEngine()
    classifier = ClassificationModel.import_checkpoint
    one = str(make_checkpoint(home / "one", head=["LABEL_0"], seed=3))
    two = str(make_checkpoint(home / "two", head=["LABEL_0", "LABEL_1"], seed=4))
    number = str(make_checkpoint(home / "number", head=["LABEL_0"], seed=5, problem_type="regression"))
    made.add("one", ClassificationTask(), classifier(one, pair=True))
    made.add("number", ClassificationTask(), classifier(number, pair=True))
    made.add("two", ClassificationTask(), classifier(two, pair=True, labels=["irrelevant", "relevant"]))
    made.add("unnamed", ClassificationTask(), classifier(two, pair=True))
    made.add("single", ClassificationTask(), classifier(two))
    bert = str(make_checkpoint(home / "bert", seed=6))
    made.add("reader", QaTask(), QaModel.build(backbone=bert, max_length=64))
    made.add("chooser", SummarizationTask(), SentenceChooser.build(backbone=bert, max_length=64))
    writer = SummaryWriter.import_checkpoint(str(make_writer(home / "t5")), max_tokens=12)
    made.add("writer", SummarizationTask(), writer)
    return made


@pytest.fixture
def client(engine: DirectEngine, tmp_path: Path) -> Iterator[LocalClient]:
    registry = Registry()
    registry.retrievers.add(FaissRetriever(), "test")
    languages = {"en": LanguageModels(), "zh": LanguageModels(reader="reader")}
    desk: Any = KnowledgeDesk(tmp_path / "bases", registry, engine, KnowledgeSettings(languages=languages))
    with local_client(desk, tmp_path, 120.0) as made:
        yield made


@pytest.fixture
def cards(client: LocalClient) -> Any:
    client.create_knowledge("cards", config={"passage_size": 2000, "passage_maximum": 2000})
    base = client.knowledge("cards")
    base.upsert([*CARDS.items(), ("zh", "银行卡丢了请帮我冻结账户。我的卡在哪里?")])
    return base


def worth(hit: Hit, hits: Sequence[Hit]) -> float:
    """What orders it."""
    return relevance(hit.score, 1 + sum((one.fused or 0.0) > (hit.fused or 0.0) for one in hits))


def judged(engine: DirectEngine, model: str, question: str, passage: str) -> float:
    labels = engine.ask(model, {"threshold": 0.0}, text=question, text_pair=passage).labels
    return next(one.score for one in labels if one.label == "relevant" or len(labels) == 1)


@pytest.mark.parametrize("model", ["one", "two", "number"])
def test_passages_are_in_the_order_of_what_the_model_scores_the_pairs(engine: DirectEngine, cards: Any, model: str) -> None:
    """One logit or two, of a classifier or of a regression."""
    fused = cards.search(QUESTION, mode="hybrid").hits
    assert cards.configure(reranker=model).answering == AnswerConfig(reranker=model)
    hits = cards.search(QUESTION, mode="reranked").hits
    direct = {hit.passage.passage_id: judged(engine, model, QUESTION, hit.passage.readable) for hit in fused}
    assert {hit.passage.passage_id: hit.score for hit in hits} == pytest.approx(direct, abs=1e-5)
    assert [worth(hit, hits) for hit in hits] == sorted((worth(hit, hits) for hit in hits), reverse=True)
    assert {hit.passage.passage_id: hit.fused for hit in hits} == {hit.passage.passage_id: hit.score for hit in fused}
    assert len(set(direct.values())) > 2
    assert cards.search(QUESTION, mode="hybrid").hits == fused
    told = cards.ask(QUESTION, passages=1)
    assert [source.passage_id for source in told.sources] == [hits[0].passage.passage_id]
    assert [(one.passage_id, one.fused, one.score) for one in told.ranking] == [
        (hit.passage.passage_id, hit.fused, pytest.approx(hit.score, abs=1e-5)) for hit in hits
    ]
    assert told.models == (f"{model}@1",)


def test_only_the_candidates_are_re_ranked_and_at_least_those_that_are_read(engine: DirectEngine, cards: Any) -> None:
    fused = [hit.passage.passage_id for hit in cards.search(QUESTION).hits]
    cards.configure(reranker="one", candidates=2)
    assert {one.passage_id for one in cards.ask(QUESTION, passages=1).ranking} == set(fused[:2])
    assert {one.passage_id for one in cards.ask(QUESTION, passages=3).ranking} == set(fused[:3])
    assert len(cards.search(QUESTION, mode="reranked", limit=1).hits) == 1


def test_a_reader_ranks_by_what_it_says_of_no_answer(engine: DirectEngine, cards: Any) -> None:
    cards.configure(reranker="reader")
    for hit in cards.search(QUESTION, mode="reranked").hits:
        given = {"question": QUESTION, "context": hit.passage.readable}
        output = engine.ask("reader", {"no_answer_threshold": 1.0}, **given)
        assert hit.score == pytest.approx(1 - output.no_answer_score, abs=1e-5)


def test_no_candidate_and_one(cards: Any) -> None:
    cards.configure(reranker="one", writer="writer")
    nothing = cards.ask("xylophone?", threshold=0.0)
    assert (nothing.kind, nothing.ranking, nothing.sources, nothing.confidence) == ("none", (), (), 0.0)
    assert cards.search("xylophone?", mode="reranked").hits == ()
    single = cards.search("week?", mode="reranked").hits
    assert [hit.passage.document_id for hit in single] == ["refund"]


def test_a_passage_beyond_the_window_is_judged_by_its_beginning(engine: DirectEngine, cards: Any) -> None:
    cards.configure(reranker="two")
    hits = {hit.passage.document_id: hit for hit in cards.search(QUESTION, mode="reranked").hits}
    text = hits["long"].passage.readable
    assert engine.ask("two", text=QUESTION, text_pair=text).truncated
    assert hits["long"].score == pytest.approx(judged(engine, "two", QUESTION, text), abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "field", "told"),
    [
        ({"reranker": "missing"}, "answering.reranker", "'missing', the re-ranker of this base, is not served"),
        ({"reranker": "single"}, "answering.reranker", "takes no `text_pair`"),
        ({"reranker": "unnamed"}, "answering.reranker", "LABEL_0, LABEL_1 of which one must be|labels label_0, label_1"),
        ({"reranker": "writer"}, "answering.reranker", "a re-ranker takes text and text_pair"),
        ({"writer": "missing"}, "answering.writer", "'missing', the writer of this base, is not served"),
        ({"writer": "one"}, "answering.writer", "a writer takes a document"),
        ({"writer": "chooser"}, "answering.writer", "chooses sentences"),
        ({"writer": "writer", "params": {"max_tokens": 0}}, "answering.writer", "max_tokens"),
        ({"prompt": "{passages}"}, "answering.prompt", "{question}"),
        ({"passage": "{text.__class__}"}, "answering.passage", "{number}"),
        ({"candidates": 0}, "answering.candidates", "greater than or equal to 1"),
        ({"reranker": "No Name"}, "answering.reranker", "names no model"),
    ],
)
def test_settings_that_no_question_could_be_answered_by_are_refused_and_change_nothing(
    cards: Any, settings: dict[str, Any], field: str, told: str
) -> None:
    cards.configure(reranker="one")
    with pytest.raises(InvalidInputError, match=told) as caught:
        cards.configure(**settings)
    assert caught.value.field == field
    assert cards.stats().answering == AnswerConfig(reranker="one")
    cards.configure()
    assert cards.stats().answering == AnswerConfig()
    with pytest.raises(UnsupportedError, match="has no re-ranker"):
        cards.search(QUESTION, mode="reranked")


# -- writing ---------------------------------------------------------------------------------------------------------------


def test_a_written_answer_is_what_the_model_makes_of_the_prompt_and_keeps_its_sources(engine: DirectEngine, cards: Any) -> None:
    template, form = "Q {question} P {passages}", "({number}) {text}"
    cards.configure(writer="writer", prompt=template, passage=form, passage_characters=100, params={"num_beams": 2})
    told = cards.ask(QUESTION, threshold=0.0)
    assert (told.kind, told.confidence, told.evidence) == ("written", 0.0, "")
    given = "\n".join(form.format(number=n, text=one.passage) for n, one in enumerate(told.sources, 1))
    document = template.format(question=QUESTION, passages=given)
    direct = engine.ask("writer", {"num_beams": 2}, document=document)
    assert told.answer == direct.summary.strip() != ""
    assert told.truncated == direct.truncated
    assert told.models == ("writer@1",)
    assert 0 < len(told.sources) < 4
    assert sum(len(form.format(number=1, text=one.passage)) for one in told.sources) <= 100
    assert cards.ask(QUESTION).kind == "none", "without evidence a threshold lets no text be written"


def test_the_writers_window_is_told_and_a_passage_longer_than_the_prompt_is_cut(engine: DirectEngine, cards: Any) -> None:
    cards.configure(writer="writer", passage_characters=200)
    told = cards.ask("my card is here", passages=1, threshold=0.0)
    assert [source.document_id for source in told.sources] == ["long"]
    assert told.truncated
    assert len(told.sources[0].passage) > 200


@pytest.mark.parametrize("question", [QUESTION, ZH])
def test_a_stream_gives_the_text_and_then_the_answer_of_ask(cards: Any, question: str) -> None:
    cards.configure(writer="writer", prompt="{question} {passages}", passage="{text}", passage_characters=100)
    whole = cards.ask(question, threshold=0.0)
    with cards.ask_stream(question, threshold=0.0) as stream:
        pieces = list(stream)
    told = stream.result()
    assert isinstance(told, KnowledgeAnswer)
    assert "".join(pieces) == told.answer != ""
    assert told.model_copy(update={"request_id": ""}) == whole.model_copy(update={"request_id": ""})
    assert told.kind == "written"


def test_an_answer_that_is_not_written_has_no_pieces(cards: Any) -> None:
    cards.upsert([{"document_id": "faq", "text": "At nine.", "question": "When do you open?"}])
    cards.configure(writer="writer")
    stream = cards.ask_stream("When do you open?")
    assert list(stream) == []
    assert (stream.result().kind, stream.result().answer) == ("faq", "At nine.")


def test_confidence_is_of_the_evidence_and_abstains(cards: Any) -> None:
    """By the re-ranker where nothing reads; by the reader where one does (Chinese here)."""
    cards.configure(writer="writer", reranker="one")
    ranked = cards.ask(QUESTION, threshold=0.0)
    assert ranked.evidence == "reranker"
    assert ranked.confidence == pytest.approx(max(one.score for one in ranked.ranking), abs=1e-6)
    none = cards.ask(QUESTION, threshold=min(1.0, ranked.confidence + 1e-3))
    assert (none.kind, none.answer, none.evidence) == ("none", "", "reranker")
    assert none.confidence == pytest.approx(ranked.confidence, abs=1e-5)
    cards.configure()
    spans = cards.ask(ZH, threshold=0.0)
    cards.configure(writer="writer", threshold=0.0)
    read = cards.ask(ZH)
    assert (read.kind, read.evidence, read.language) == ("written", "reader", "zh")
    assert read.confidence == pytest.approx(spans.confidence, abs=1e-5)
    assert read.models == ("reader@1", "writer@1")


def test_the_settings_of_a_base_stay_when_it_is_created_with_them(client: LocalClient) -> None:
    made = client.create_knowledge("made", answering={"reranker": "two", "candidates": 3})
    assert made.answering == AnswerConfig(reranker="two", candidates=3)
    assert client.knowledge("made").stats() == made
    client.drop_knowledge("made")
    with pytest.raises(InvalidInputError, match="not served"):
        client.create_knowledge("made", answering={"reranker": "missing"})
    assert "made" not in [info.base for info in client.knowledge_bases()]


def test_models_of_bases_are_named_for_who_loads_them(cards: Any, tmp_path: Path) -> None:
    cards.configure(reranker="one", writer="writer@1")
    hooks: Any = load_registry().hooks
    settings = load_settings(overrides={"knowledge": {"folder": str(tmp_path / "bases")}})
    wanted = hooks.hook.knowledge_models(settings=settings, registry=load_registry(), tenant="default")
    assert {"one", "writer@1"} <= set(wanted)
    assert not {"one", "writer@1"} & set(hooks.hook.knowledge_models(settings=settings, registry=load_registry(), tenant="x"))
