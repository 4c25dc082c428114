"""Bases that keep a graph, served: what is extracted when documents come in, and what questions make of it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from taskloom.core.errors import (
    InvalidInputError,
    ModelFailedError,
    NotFoundError,
    OverloadedError,
    TaskloomError,
    UnsupportedError,
)
from taskloom.core.knowledge import Document
from taskloom.core.knowledge_calls import AnswerConfig, AskCall, BaseSpec, GraphCall, SearchCall
from taskloom.core.knowledge_graph import EntityMention
from taskloom.core.loader import load_registry
from taskloom.core.registry import Registry
from taskloom.core.settings import Calibration, KnowledgeSettings, LanguageModels, Settings
from taskloom.core.types import InferCall, InferResult, ModelDescription, ModelInfo, ModelRef
from taskloom.plugins.retrieval.plugin import FaissRetriever
from taskloom.server.knowledge.desk import KnowledgeDesk
from taskloom.server.knowledge.intake import MOST_PAIRS, pairs
from taskloom.server.knowledge.wanted import models_wanted

PLAIN = Calibration(intercept=0.0, reader=1.0, dense=0.0, agreement=0.0)
LANGUAGES = {"en": LanguageModels(reader="numbers", entities="names", relations="verbs@3", calibration=PLAIN)}
NAME = re.compile(r"\b[A-Z]\w+(?: [A-Z]\w+)*")
TAKES = {"numbers": ("question", "context"), "tells": ("document",)}
VERB = re.compile(r"owns|was made by|near")


class Engine:
    """Names are words with a capital; two are related as the verb between them says, `was made by` from the second to the
    first. The first number of a passage is an answer, and what `tells` writes says all of them; a text with `unreadable` is
    refused, `absent` models are not served."""

    def __init__(self) -> None:
        self.version = "3"
        self.absent: set[str] = set()
        self.fails: dict[str, TaskloomError] = {}
        self.calls: list[InferCall] = []

    def _there(self, name: str) -> None:
        if name in self.absent:
            raise NotFoundError(f"no model named {name!r}")

    async def infer(self, call: InferCall, send: Any = None) -> InferResult:
        self._there(call.model.name)
        self.calls.append(call)
        if error := self.fails.get(call.model.name):
            raise error
        if "unreadable" in call.input.get("text", ""):
            raise InvalidInputError("that is no text")
        output = getattr(self, f"_{call.model.name}")(call.input)
        return InferResult(request_id=call.request_id, model=call.model.name, version=self.version, task="fake", output=output)

    def describe(self, ref: ModelRef) -> ModelDescription:
        self._there(ref.name)
        info = ModelInfo(name=ref.name, version=self.version, task="fake")
        schema = {"properties": dict.fromkeys(TAKES.get(ref.name, ()))}
        return ModelDescription(info=info, input_schema=schema, output_schema={}, params_schema={})

    @staticmethod
    def _names(given: Any) -> dict[str, Any]:
        spans = [(found.start(), found.end()) for found in NAME.finditer(given["text"])]
        return {
            "entities": [
                {"label": "NAME", "start": a, "end": b, "text": given["text"][a:b], "score": 0.9, "source": "model"}
                for a, b in spans
            ]
        }

    @staticmethod
    def _verbs(given: Any) -> dict[str, Any]:
        head, tail = (given["text"][given[part]["start"] : given[part]["end"]] for part in ("head", "tail"))
        if "Toolong" in (head, tail):
            raise InvalidInputError("the two are longer than what the model reads")
        verb = VERB.search(given["text"], given["head"]["end"], given["tail"]["start"])
        if verb is None:
            return {"labels": [{"label": "Other", "score": 0.9, "relation": "Other", "direction": None}]}
        backwards = verb.group() == "was made by"
        relation, ending = ("made", "(e2,e1)") if backwards else (verb.group(), "(e1,e2)")
        direction = "tail_to_head" if backwards else "head_to_tail"
        return {"labels": [{"label": relation + ending, "score": 0.8, "relation": relation, "direction": direction}]}

    @staticmethod
    def _numbers(given: Any) -> dict[str, Any]:
        number = re.search(r"\d+", given["context"])
        if number is None:
            return {"answers": [], "no_answer_score": 0.9}
        answer = {"text": number.group(), "start": number.start(), "end": number.end(), "score": 0.7}
        return {"answers": [answer], "no_answer_score": 0.3}

    @staticmethod
    def _tells(given: Any) -> dict[str, Any]:
        return {"summary": " and ".join(["It is", *re.findall(r"\d+", given["document"])])}

    def read(self) -> list[str]:
        """The texts that were searched for names."""
        return [call.input["text"] for call in self.calls if call.model.name == "names"]


@pytest.fixture
def engine() -> Engine:
    return Engine()


def make_desk(folder: Path, engine: Engine, **settings: Any) -> KnowledgeDesk:
    registry = Registry()
    registry.retrievers.add(FaissRetriever(), "test")
    given = {"languages": LANGUAGES, "threshold": 0.3, **settings}
    return KnowledgeDesk(folder, registry, engine, KnowledgeSettings(**given))  # type: ignore[arg-type]


async def stream(texts: dict[str, str]) -> AsyncIterator[Document]:
    for name, text in texts.items():
        yield Document(document_id=name, text=text)


TEXTS = {"own": "Ann Lee owns Bolt and lives.", "made": "Ships was made by Bolt, all 17 of them."}


async def filled(folder: Path, engine: Engine, *, graph: bool = True, **settings: Any) -> KnowledgeDesk:
    desk = make_desk(folder, engine, **settings)
    await desk.create("north", BaseSpec(base="firms", config={"graph": graph}))
    await desk.upsert("north", "firms", stream(TEXTS))
    return desk


async def relations(desk: KnowledgeDesk, name: str, **more: Any) -> set[tuple[str, str, str]]:
    found = await desk.graph("north", GraphCall(base="firms", name=name, **more))
    return {(one.head, one.relation, one.tail) for one in found.relations}


async def test_names_and_relations_are_extracted_with_the_documents_and_say_what_found_them(
    tmp_path: Path, engine: Engine
) -> None:
    desk = await filled(tmp_path, engine)
    assert await relations(desk, "Ann Lee") == {("ann lee", "owns", "bolt")}
    assert await relations(desk, "ships") == {("bolt", "made", "ships")}, "the model said it from the tail to the head"
    assert await relations(desk, "Ann Lee", hops=2) == {("ann lee", "owns", "bolt"), ("bolt", "made", "ships")}
    found = await desk.graph("north", GraphCall(base="firms", name="Bolt"))
    assert found.version == 1
    assert {(one.document_id, one.start, one.text, one.models) for one in found.mentions} == {
        ("own", 13, "Bolt", ("names@3", "verbs@3")),
        ("made", 18, "Bolt", ("names@3", "verbs@3")),
    }
    assert all(call.priority < 0 for call in engine.calls), "questions go first"
    graph = (await desk.stats("north", "firms")).stats.graph
    assert graph is not None
    assert (graph.entities, graph.mentions, graph.relations) == (3, 4, 2)
    await desk.close()


async def test_only_passages_that_are_new_are_read(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    assert sorted(engine.read()) == sorted(TEXTS.values())
    await desk.upsert("north", "firms", stream({**TEXTS, "copy": TEXTS["own"] + "\n"}))
    assert len(engine.read()) == 2, "what has not changed, and what says the same"
    await desk.delete("north", "firms", ["own"])
    await desk.upsert("north", "firms", stream({"again": TEXTS["own"], "new": "Cid owns Dot."}))
    assert engine.read()[2:] == ["Cid owns Dot."]
    assert await relations(desk, "Ann Lee") == {("ann lee", "owns", "bolt")}
    engine.version = "4"
    await desk.delete("north", "firms", ["again"])
    await desk.upsert("north", "firms", stream({"later": TEXTS["own"]}))
    assert engine.read()[3:] == [TEXTS["own"]], "another version of the model reads it anew"
    await desk.close()


async def test_a_base_without_a_graph_asks_no_model_for_names(tmp_path: Path, engine: Engine) -> None:
    engine.absent = {"names", "verbs"}
    desk = await filled(tmp_path, engine, graph=False)
    told = await desk.ask("north", AskCall(base="firms", question="How many Ships?"))
    assert (told.answer, told.models) == ("17", ("numbers@3",))
    assert (await desk.stats("north", "firms")).stats.graph is None
    with pytest.raises(UnsupportedError, match="graph = true"):
        await desk.graph("north", GraphCall(base="firms", name="Bolt"))
    with pytest.raises(UnsupportedError, match="'firms' keeps no graph"):
        await desk.search("north", SearchCall(base="firms", query="Bolt", mode="graph"))
    await desk.close()


@pytest.mark.parametrize("model", ["names", "verbs"])
async def test_a_model_that_fails_leaves_nothing_half_written(tmp_path: Path, engine: Engine, model: str) -> None:
    desk = await filled(tmp_path, engine)
    engine.fails[model] = OverloadedError("too much to do", retry_after_s=1.0)
    with pytest.raises(OverloadedError):
        await desk.upsert("north", "firms", stream({"x": "Cid sleeps.", "y": "Dot owns Eel."}))
    engine.fails.clear()
    engine.absent = {model}
    with pytest.raises(UnsupportedError, match=rf"needs {model}\S*, which is not served.*knowledge\.languages\.en"):
        await desk.upsert("north", "firms", stream({"x": "Cid sleeps.", "y": "Dot owns Eel."}))
    stats = (await desk.stats("north", "firms")).stats
    assert (stats.version, stats.documents) == (1, 2)
    assert stats.graph is not None
    assert stats.graph.mentions == 4
    engine.absent = set()
    assert (await desk.upsert("north", "firms", stream({"y": "Dot owns Eel."}))).version == 2
    await desk.close()


@pytest.mark.parametrize(
    ("model", "output"),
    [
        ("names", {"vector": [1.0]}),
        ("names", {"entities": [{"text": "Cid", "label": "NAME"}]}),
        ("names", {"entities": [{"text": "Cid", "label": "NAME", "start": 1, "end": 4, "score": 0.9}]}),
        ("verbs", {"labels": []}),
        ("verbs", {"labels": [{"label": "owns"}]}),
        ("verbs", {"labels": [{"label": "owns", "score": 7.5}]}),
        ("verbs", {"labels": [{"label": "", "score": 0.9}]}),
    ],
)
async def test_a_model_that_is_none_of_the_kind_is_said_to_be(
    tmp_path: Path, engine: Engine, model: str, output: dict[str, Any]
) -> None:
    desk = await filled(tmp_path, engine)
    setattr(engine, f"_{model}", lambda _given: output)
    with pytest.raises(ModelFailedError, match=f"{model} was to give"):
        await desk.upsert("north", "firms", stream({"x": "Cid owns Dot."}))
    assert (await desk.stats("north", "firms")).stats.version == 1
    engine.absent = {"names", "verbs"}
    assert (await desk.upsert("north", "firms", stream(TEXTS))).changed == (), "where nothing is new no model is wanted"
    await desk.close()


async def test_what_the_models_can_not_take_keeps_no_other_document_out(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    result = await desk.upsert(
        "north", "firms", stream({"bad": "An unreadable text.", "good": "Toolong owns Bolt, and Fig owns Gus."})
    )
    assert (result.changed, [one.document_id for one in result.refused]) == (("good",), ["bad"])
    assert "names in a passage can't be found: that is no text" in result.refused[0].reason
    assert await relations(desk, "Toolong") == set(), "a pair that is too long has no relation, and its names are there"
    assert await relations(desk, "Fig") == {("fig", "owns", "gus")}
    await desk.close()


async def test_the_graph_leads_answers_to_passages_that_the_words_do_not_find(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    question = "How many has Ann Lee?"
    told = await desk.ask("north", AskCall(base="firms", question=question))
    assert (told.answer, told.models) == ("17", ("names@3", "numbers@3"))
    assert [(source.document_id, source.graph is not None) for source in told.sources] == [("made", True)]
    plain = await desk.ask("north", AskCall(base="firms", question=question, mode="hybrid"))
    assert (plain.kind, plain.models) == ("none", ("numbers@3",))
    assert all(source.graph is None for source in plain.sources)
    found = await desk.search("north", SearchCall(base="firms", query=question, mode="graph"))
    assert {hit.passage.document_id: hit.graph is not None for hit in found.hits} == {"own": True, "made": True}
    usual = await desk.search("north", SearchCall(base="firms", query=question))
    assert {hit.passage.document_id for hit in usual.hits} == {"own"}
    await desk.close()


async def test_what_the_graph_leads_to_is_re_ranked_and_written_from(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    question = "How many has Ann Lee?"
    info = await desk.configure("north", "firms", AnswerConfig(reranker="numbers", writer="tells", passage="{text}"))
    assert (info.answering.reranker, info.stats.graph is not None) == ("numbers", True)
    found = await desk.search("north", SearchCall(base="firms", query=question, mode="reranked"))
    assert [hit.passage.document_id for hit in found.hits] == ["made", "own"], "own is found by its words as well"
    assert [hit.score for hit in found.hits] == pytest.approx([0.7, 0.1])
    assert all(hit.fused is not None and hit.graph is not None for hit in found.hits)
    graph = await desk.search("north", SearchCall(base="firms", query=question, mode="graph"))
    assert [(hit.passage.document_id, hit.score) for hit in graph.hits] == [
        (hit.passage.document_id, hit.fused) for hit in reversed(found.hits)
    ]
    told = await desk.ask("north", AskCall(base="firms", question=question, passages=1))
    assert (told.kind, told.answer, told.evidence) == ("written", "It is and 17", "reader")
    assert told.models == ("names@3", "numbers@3", "tells@3"), "the one that re-ranks and reads is named once"
    assert [(source.document_id, source.graph is not None) for source in told.sources] == [("made", True)]
    assert [one.fused for one in told.ranking] == [hit.fused for hit in found.hits]
    plain = await desk.ask("north", AskCall(base="firms", question=question, mode="hybrid", threshold=0.0))
    assert [(source.document_id, source.graph) for source in plain.sources] == [("own", None)]
    assert len(plain.ranking) == 1
    await desk.close()


async def test_without_the_model_for_names_questions_go_by_those_that_the_graph_knows(
    tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    desk = await filled(tmp_path, engine)
    engine.absent = {"names"}
    told = await desk.ask("north", AskCall(base="firms", question="how many has ann lee?"))
    assert (told.answer, told.models) == ("17", ("numbers@3",))
    assert "no model named 'names'" in caplog.text
    await desk.close()


async def test_a_language_without_models_has_no_part_in_the_graph(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    before = len(engine.calls)
    await desk.upsert("north", "firms", stream({"zh": "长江全长6300公里,是亚洲最长的河流。"}))
    assert len(engine.calls) == before
    told = await desk.search("north", SearchCall(base="firms", query="长江全长多少公里?", mode="graph"))
    assert [hit.passage.document_id for hit in told.hits] == ["zh"]
    await desk.close()


async def test_a_language_whose_model_is_not_served_keeps_no_other_out(tmp_path: Path, engine: Engine) -> None:
    engine.absent = {"mingzi"}
    desk = await filled(tmp_path, engine, languages={**LANGUAGES, "zh": LanguageModels(entities="mingzi")})
    assert await relations(desk, "Bolt") != set()
    with pytest.raises(UnsupportedError, match="needs mingzi, which is not served"):
        await desk.upsert("north", "firms", stream({"zh": "长江全长6300公里,是亚洲最长的河流。"}))
    await desk.close()


async def test_names_alone_make_a_graph_without_relations(tmp_path: Path, engine: Engine) -> None:
    languages = {"en": LanguageModels(entities="names")}
    desk = await filled(tmp_path, engine, languages=languages)
    found = await desk.graph("north", GraphCall(base="firms", name="Bolt"))
    assert ({one.models for one in found.mentions}, found.relations) == ({("names@3",)}, ())
    await desk.close()


def _names(text: str) -> list[EntityMention]:
    return [
        EntityMention(text=found.group(), label="X", start=found.start(), end=found.end(), score=1)
        for found in NAME.finditer(text)
    ]


def asked(text: str, entities: list[EntityMention] | None = None) -> list[tuple[str, str, str]]:
    found = _names(text) if entities is None else entities
    return [(text[start:end].strip(), found[head].text, found[tail].text) for start, end, head, tail in pairs(text, found)]


def test_names_are_asked_about_where_no_sentence_ends_between_them() -> None:
    first = "Ann met Bo and Cy."
    assert asked(f"{first} Then Dee left.\n\nEel of Fig") == [
        ("Eel of Fig", "Eel", "Fig"),
        (first, "Ann", "Bo"),
        (first, "Bo", "Cy"),
        (first, "Ann", "Cy"),
    ]
    text = "Then St. Louis beat Rome."
    saint = [EntityMention(text="St. Louis", label="X", start=5, end=14, score=1), *_names(text)[-1:]]
    assert asked(text, saint) == [(text, "St. Louis", "Rome")]
    assert asked("Ann met Ann.") == []
    many = " of ".join(f"N{n}" for n in range(30))
    assert len(pairs(many, _names(many))) == MOST_PAIRS


def test_who_loads_no_others_loads_the_models_of_graphs_where_a_base_keeps_one(tmp_path: Path) -> None:
    registry = load_registry()
    settings = Settings(home=tmp_path)
    assert models_wanted(settings, registry, "default") == ["embed-en", "embed-zh", "qa-en", "qa-zh"]
    for name, graph in (("plain", False), ("linked", True)):
        folder = tmp_path / "knowledge" / "default" / name
        folder.mkdir(parents=True)
        spec = BaseSpec(base=name, retriever="faiss", config={"graph": graph})
        (folder / "base.json").write_text(spec.model_dump_json())
        wanted = models_wanted(settings, registry, "default")
        assert wanted == (
            ["embed-en", "embed-zh", "ner-en", "qa-en", "qa-zh", "relation-en@1"]
            if graph
            else ["embed-en", "embed-zh", "qa-en", "qa-zh"]
        )
    assert models_wanted(settings, registry, "other") == ["embed-en", "embed-zh", "qa-en", "qa-zh"]
