"""Bases that are changed while they are asked, on the built-in retriever, with models that need no weights."""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskloom.core.errors import (
    AlreadyExistsError,
    ArtifactError,
    DeadlineExceededError,
    InputTooLargeError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    TaskloomError,
    UnavailableError,
    UnsupportedError,
)
from taskloom.core.knowledge import Document
from taskloom.core.knowledge_calls import AnswerConfig, AskCall, BaseSpec, KnowledgeAnswer, SearchCall, Turn
from taskloom.core.registry import Registry
from taskloom.core.settings import Calibration, KnowledgeSettings, LanguageModels
from taskloom.core.types import InferCall, InferResult, ModelDescription, ModelInfo, ModelRef
from taskloom.plugins.retrieval.plugin import FaissRetriever
from taskloom.server.knowledge.answering import logistic, relevance
from taskloom.server.knowledge.desk import KnowledgeDesk

DIMENSIONS = 64
PLAIN = Calibration(intercept=0.0, reader=1.0, dense=0.0, agreement=0.0)
LANGUAGES = {"en": LanguageModels(embedding="words-en", reader="numbers-en", calibration=PLAIN)}


class Engine:
    """Embeds a text by its words, and reads the first number of a passage whose words the question has."""

    def __init__(self) -> None:
        self.version = "1"
        self.refuses = ""
        self.ranks_after_s = 0.0
        self.embeds_after: asyncio.Event | None = None
        self.served = True
        self.missing: set[str] = set()
        self.fails: TaskloomError | None = None
        self.calls: list[InferCall] = []

    async def infer(self, call: InferCall, send: Any = None) -> InferResult:
        self.calls.append(call)
        await asyncio.sleep(0)
        if call.model.name in self.missing:
            raise NotFoundError(f"no served model {call.model.name!r}; there are: secret-model")
        if self.fails is not None:
            raise self.fails
        if self.refuses and self.refuses in call.input.get("text", ""):
            raise InvalidInputError(f"{self.refuses} is nothing to embed")
        if call.model.name == "words-rank":
            await asyncio.sleep(self.ranks_after_s)
            output = _relevance(**call.input)
        elif call.model.name == "words-en":
            if self.embeds_after is not None:
                await self.embeds_after.wait()
            output = _vector(call.input["text"])
        else:
            output = _number(**call.input)
        return InferResult(request_id=call.request_id, model=call.model.name, version=self.version, task="fake", output=output)

    def describe(self, ref: ModelRef) -> ModelDescription:
        if ref.name in self.missing or (ref.name == "words-rank" and not self.served):
            raise NotFoundError(f"no model {ref.name!r}; there are: secret-model")
        info = ModelInfo(name=ref.name, version=self.version, task="fake")
        schema = {"properties": {"text": {}, "text_pair": {}}} if ref.name == "words-rank" else {}
        return ModelDescription(info=info, input_schema=schema, output_schema={}, params_schema={})

    def embedded(self) -> list[str]:
        return [call.input["text"] for call in self.calls if call.input.get("kind") == "passage"]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]{4,}", text.lower())


def _vector(text: str) -> dict[str, Any]:
    found = np.zeros(DIMENSIONS)
    for word in _words(text):
        found[int.from_bytes(hashlib.sha256(word.encode()).digest()[:2], "big") % DIMENSIONS] += 1.0
    norm = float(np.linalg.norm(found)) or 1.0
    return {"vector": [float(value) for value in found / norm]}


def _number(question: str, context: str) -> dict[str, Any]:
    shared = set(_words(question)) & set(_words(context))
    number = re.search(r"\d+", context)
    if number is None or not shared:
        return {"answers": [], "no_answer_score": 0.9}
    score = min(0.95, 0.3 * len(shared))
    answer = {"text": number.group(), "start": number.start(), "end": number.end(), "score": score}
    return {"answers": [answer], "no_answer_score": 1 - score}


def _relevance(text: str, text_pair: str) -> dict[str, Any]:
    """The share of a passage's words that the question has."""
    words = _words(text_pair)
    score = sum(word in _words(text) for word in words) / len(words)
    return {"labels": [{"label": "irrelevant", "score": 1 - score}, {"label": "relevant", "score": score}]}


RANKED = AnswerConfig(reranker="words-rank", candidates=10)


def make_desk(folder: Path, engine: Engine, **settings: Any) -> KnowledgeDesk:
    registry = Registry()
    registry.retrievers.add(FaissRetriever(), "test")
    return KnowledgeDesk(
        folder,
        registry,
        engine,
        KnowledgeSettings(**{"languages": LANGUAGES, "threshold": 0.3, **settings}),
    )  # type: ignore[arg-type]


@pytest.fixture
def engine() -> Engine:
    return Engine()


async def documents(*given: Document) -> AsyncIterator[Document]:
    for document in given:
        yield document


def document(name: str, text: str, **more: Any) -> Document:
    return Document(document_id=name, text=text, **more)


NILE = document("nile", "The river Nile has a length of 6650 kilometres.", title="Nile", metadata={"continent": "africa"})
DANUBE = document(
    "danube", "The river Danube has a length of 2850 kilometres.", title="Danube", metadata={"continent": "europe"}
)
OPENING = document("opening", "From 8 to 18 on every working day.", question="When does the office open?")


async def filled(folder: Path, engine: Engine, **settings: Any) -> KnowledgeDesk:
    desk = make_desk(folder, engine, **settings)
    await desk.create("north", BaseSpec(base="rivers"))
    await desk.upsert("north", "rivers", documents(NILE, DANUBE, OPENING))
    return desk


async def ask(desk: KnowledgeDesk, question: str, **more: Any) -> KnowledgeAnswer:
    return await desk.ask("north", AskCall(base="rivers", question=question, **more))


async def test_an_answer_has_its_source_and_the_version_that_it_was_found_in(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    told = await ask(desk, "What length has the river Danube?")
    assert (told.kind, told.answer, told.version) == ("span", "2850", 1)
    source = told.sources[0]
    assert (source.document_id, source.title) == ("danube", "Danube")
    assert DANUBE.text[source.start : source.end] == "2850"
    assert told.models == ("words-en@1", "numbers-en@1")
    await desk.close()


async def test_chinese_is_embedded_in_simplified_characters_and_kept_as_it_is(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine, languages={"zh": LANGUAGES["en"]})
    await desk.upsert("north", "rivers", documents(document("reset", "請重設 router 路由器", language="zh-Hant")))
    found = await desk.search("north", SearchCall(base="rivers", query="怎樣重設 router"))
    assert engine.embedded()[-1] == "请重设 router 路由器"
    assert engine.calls[-1].input["text"] == "怎样重设 router"
    assert [hit.passage.text for hit in found.hits] == ["請重設 router 路由器"]
    await desk.close()


async def test_a_faq_entry_answers_by_its_question(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    told = await ask(desk, "When does the office open")
    assert (told.kind, told.answer) == ("faq", OPENING.text)
    assert told.confidence > 0.9
    await desk.close()


async def test_what_nothing_answers_has_no_answer(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    told = await ask(desk, "Who painted the ceiling?")
    assert (told.kind, told.answer) == ("none", "")
    always = await ask(desk, "What length has the river Danube?", threshold=0.99)
    assert always.kind == "none"
    assert any(source.document_id == "danube" for source in always.sources)
    await desk.close()


async def test_a_question_that_goes_on_is_searched_with_the_one_before(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    turns = (Turn(question="What length has the river Nile?", answer="6650"),)
    told = await ask(desk, "Is it in kilometres?", turns=turns)
    assert told.understood_as == "What length has the river Nile? Is it in kilometres?"
    assert told.answer == "6650"
    await desk.close()


async def test_a_filter_and_an_older_version_are_kept_to(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    longer = NILE.model_copy(update={"text": "The river Nile has a length of 7000 kilometres."})
    assert (await desk.upsert("north", "rivers", documents(longer))).version == 2
    assert (await ask(desk, "What length has the river Nile?")).answer == "7000"
    assert (await ask(desk, "What length has the river Nile?", version=1)).answer == "6650"
    found = await desk.search("north", SearchCall(base="rivers", query="length of the river", where={"continent": "europe"}))
    assert [hit.passage.document_id for hit in found.hits] == ["danube"]
    assert await desk.rollback("north", "rivers", 1) == 3
    assert (await ask(desk, "What length has the river Nile?")).answer == "6650"
    with pytest.raises(NotFoundError):
        await ask(desk, "What length?", version=99)
    await desk.close()


async def test_a_re_ranker_decides_what_is_read_and_is_told_with_its_scores(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    await desk.upsert("north", "rivers", documents(document("short", "Danube: length 2850.")))
    question = "What length has the Danube?"
    assert (await ask(desk, question)).ranking == ()
    before = await ask(desk, question, passages=1)
    await desk.configure("north", "rivers", RANKED)
    told = await ask(desk, question, passages=1)
    assert [source.document_id for source in told.sources] == ["short"]
    assert (told.kind, told.answer) == ("span", "2850")
    assert told.models == ("words-en@1", "words-rank@1", "numbers-en@1")
    places = [1 + sum(other.fused > one.fused for other in told.ranking) for one in told.ranking]
    worth = [relevance(one.score, place) for one, place in zip(told.ranking, places, strict=True)]
    assert worth == sorted(worth, reverse=True)
    assert told.ranking[0].score == 1.0
    fused = {one.passage_id: one.fused for one in told.ranking}
    assert max(fused, key=lambda name: fused[name]) == before.sources[0].passage_id
    assert len({call.input["context"] for call in engine.calls[-1:]}) == 1, "only the best is read"
    await desk.close()


async def test_a_faq_entry_answers_wherever_the_re_ranker_puts_it(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    await desk.configure("north", "rivers", RANKED)
    told = await ask(desk, "When does the office open", passages=1)
    assert (told.kind, told.answer) == ("faq", OPENING.text)
    await desk.close()


async def test_a_re_ranker_that_fails_or_is_late_is_a_typed_error(tmp_path: Path, engine: Engine) -> None:
    """Answers must not depend on whether a model was there by chance."""
    desk = await filled(tmp_path, engine)
    await desk.configure("north", "rivers", RANKED)
    engine.ranks_after_s = 30.0
    with pytest.raises(DeadlineExceededError, match="words-rank"):
        await ask(desk, "What length has the river Nile?", deadline_s=time.time() + 0.5)
    engine.ranks_after_s = 0.0
    engine.served = False
    with pytest.raises(UnsupportedError, match="not served here") as caught:
        await ask(desk, "What length has the river Nile?")
    assert "secret-model" not in caught.value.message
    with pytest.raises(InvalidInputError, match="not served here"):
        await desk.configure("north", "rivers", RANKED)
    await desk.configure("north", "rivers", AnswerConfig())
    assert (await ask(desk, "What length has the river Nile?")).answer == "6650"
    await desk.close()


async def test_settings_outlive_the_process_and_belong_to_who_may_change_the_base(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    await desk.create("north", BaseSpec(base="news", shared=True))
    with pytest.raises(NotFoundError, match="not changed"):
        await desk.configure("south", "news", RANKED)
    own = AnswerConfig(threshold=0.99)
    assert (await desk.configure("north", "rivers", own)).answering == own
    assert (await ask(desk, "What length has the river Nile?")).kind == "none"
    assert (await ask(desk, "What length has the river Nile?", threshold=0.1)).kind == "span"
    await desk.close()
    again = make_desk(tmp_path, engine)
    assert (await again.stats("north", "rivers")).answering == own
    dropped = [again.drop("north", "rivers"), again.configure("north", "rivers", RANKED)]
    await asyncio.gather(*dropped, return_exceptions=True)
    assert await again.bases("north") == [await again.stats("north", "news")]
    await again.close()


async def test_what_has_not_changed_is_not_embedded_again(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    before = len(engine.embedded())
    result = await desk.upsert("north", "rivers", documents(NILE, document("rhine", "The Rhine has 1233 kilometres.")))
    assert (result.changed, result.unchanged, result.version) == (("rhine",), ("nile",), 2)
    assert len(engine.embedded()) == before + 1
    again = await desk.upsert("north", "rivers", documents(NILE))
    assert (again.changed, again.version) == ((), 2)
    await desk.close()


async def test_removed_documents_answer_no_more(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    assert await desk.delete("north", "rivers", ["danube"]) == 2
    found = await desk.search("north", SearchCall(base="rivers", query="river Danube length"))
    assert "danube" not in [hit.passage.document_id for hit in found.hits]
    with pytest.raises(NotFoundError):
        await desk.delete("north", "rivers", ["danube"])
    await desk.close()


async def test_tenants_do_not_see_each_others_bases(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    await desk.create("north", BaseSpec(base="news", shared=True))
    assert [info.base for info in await desk.bases("south")] == ["news"]
    with pytest.raises(NotFoundError, match="rivers"):
        await desk.search("south", SearchCall(base="rivers", query="Nile"))
    with pytest.raises(NotFoundError, match="not changed"):
        await desk.upsert("south", "news", documents(NILE))
    await desk.close()


async def test_everything_is_there_after_a_restart(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    await desk.close()
    with pytest.raises(UnavailableError):
        await ask(desk, "What length has the river Nile?")
    again = make_desk(tmp_path, engine)
    assert (await ask(again, "What length has the river Nile?")).answer == "6650"
    info = await again.stats("north", "rivers")
    assert (info.stats.documents, info.stats.version) == (3, 1)
    await again.drop("north", "rivers")
    assert await again.bases("north") == []
    await again.close()


async def test_after_the_embedding_model_changed_documents_are_found_by_words_until_they_are_put_in_again(
    tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    desk = await filled(tmp_path, engine)
    engine.version = "2"
    told = await ask(desk, "What length has the river Nile?")
    assert (told.answer, told.models) == ("6650", ("numbers-en@2",))
    assert "words-en@1 are not compared with words-en@2" in caplog.text
    again = await desk.upsert("north", "rivers", documents(NILE, DANUBE, OPENING))
    assert again.changed == ("nile", "danube", "opening")
    told = await ask(desk, "What length has the river Nile?")
    assert (told.answer, told.models) == ("6650", ("words-en@2", "numbers-en@2"))
    await desk.close()


async def test_a_language_without_models_is_found_by_its_words(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    await desk.upsert("north", "rivers", documents(document("changjiang", "长江全长6300公里,是亚洲最长的河流。")))
    told = await ask(desk, "长江全长多少公里?")
    assert (told.kind, told.language) == ("none", "zh")
    assert told.sources[0].document_id == "changjiang"
    await desk.close()


async def test_where_a_reader_is_not_served_faq_entries_and_passages_are_left(tmp_path: Path, engine: Engine) -> None:
    desk = make_desk(tmp_path, engine, languages={**LANGUAGES, "zh": LanguageModels(reader="numbers-zh")})
    await desk.create("north", BaseSpec(base="rivers"))
    entry = document("faq", "六千三百公里。", question="长江全长多少公里?")
    await desk.upsert("north", "rivers", documents(document("jiang", "长江全长6300公里。"), entry))
    engine.missing = {"numbers-zh"}
    told = await ask(desk, "长江全长多少公里?")
    assert (told.kind, told.answer) == ("faq", "六千三百公里。")
    told = await ask(desk, "长江是亚洲最长的河流吗?")
    assert (told.kind, told.models) == ("none", ())
    assert told.sources
    await desk.close()


async def test_where_an_embedding_model_is_not_served_its_language_is_found_by_words(
    tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    languages = {**LANGUAGES, "zh": LanguageModels(embedding="places-zh", reader="numbers-zh", calibration=PLAIN)}
    desk = make_desk(tmp_path, engine, languages=languages)
    await desk.create("north", BaseSpec(base="rivers"))
    engine.missing = {"places-zh"}
    jiang = document("jiang", "长江(Yangtze)全长6300公里。", language="zh")
    await desk.upsert("north", "rivers", documents(document("nile", "The Nile is 6650 km long."), jiang))
    told = await ask(desk, "长江(Yangtze)全长多少公里?")
    assert (told.language, told.answer, told.sources[0].document_id) == ("zh", "6300", "jiang")
    assert "will be found by their words alone" in caplog.text
    assert "find passages by their words alone" in caplog.text
    assert engine.embedded() == ["The Nile is 6650 km long."]
    told = await ask(desk, "How long is the Nile?")
    assert (told.answer, told.sources[0].document_id) == ("6650", "nile")
    await desk.close()


async def test_how_sure_an_answer_is_depends_on_the_language_of_its_question(tmp_path: Path, engine: Engine) -> None:
    trusted = LanguageModels(reader="numbers-zh", calibration=Calibration(intercept=2.0, reader=0.0, dense=0.0, agreement=0.0))
    desk = make_desk(tmp_path, engine, languages={**LANGUAGES, "zh": trusted})
    await desk.create("north", BaseSpec(base="rivers"))
    await desk.upsert("north", "rivers", documents(document("jiang", "长江(Yangtze)全长6300公里。", language="zh")))
    told = await ask(desk, "长江(Yangtze)全长多少公里?")
    assert (told.language, told.answer) == ("zh", "6300")
    assert told.confidence == pytest.approx(logistic(2.0))
    told = await ask(desk, "How long is the Yangtze?")  # the reader is as sure as before: three in ten
    assert (told.language, told.answer, told.confidence) == ("en", "6300", pytest.approx(0.3))
    await desk.close()


async def test_limits_and_bad_settings_are_told(tmp_path: Path, engine: Engine) -> None:
    desk = make_desk(tmp_path, engine, max_upsert_bytes=1024)
    await desk.create("north", BaseSpec(base="rivers"))
    with pytest.raises(InputTooLargeError, match="max_upsert_bytes"):
        await desk.upsert("north", "rivers", documents(document("long", "word " * 1000)))
    with pytest.raises(InvalidInputError, match="config of other"):
        await desk.create("north", BaseSpec(base="other", config={"no-such": 1}))
    assert [info.base for info in await desk.bases("north")] == ["rivers"]
    await desk.close()


async def test_questions_are_answered_whole_while_documents_change(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    seen: set[tuple[int, str]] = set()

    async def asking(times: int) -> None:
        for _ in range(times):
            told = await ask(desk, "What length has the river Nile?")
            seen.add((told.version, told.answer))

    async def writing() -> None:
        for number in range(15):
            await desk.upsert("north", "rivers", documents(document("nile", f"The river Nile has a length of {number} km.")))
            await asking(1)  # however the others are scheduled, some version between is seen

    await asyncio.gather(asking(30), asking(30), writing())
    assert len(seen) > 2
    assert not {(v, answer) for v, answer in seen if answer != ("6650" if v == 1 else str(v - 2))}
    await desk.close()


async def test_a_base_that_is_dropped_and_made_again_is_another_one(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)

    async def asking() -> None:
        for _ in range(20):
            with suppress(NotFoundError):
                await ask(desk, "What length has the river Nile?")

    for _ in range(5):
        calls = [asyncio.ensure_future(asking()) for _ in range(3)]
        await asyncio.sleep(0.01)
        await desk.drop("north", "rivers")
        await desk.create("north", BaseSpec(base="rivers"))
        assert (await desk.upsert("north", "rivers", documents(DANUBE))).version == 1
        await asyncio.gather(*calls)
        assert (await desk.stats("north", "rivers")).stats.documents == 1
    await desk.close()
    again = make_desk(tmp_path, engine)
    assert (await again.stats("north", "rivers")).stats.documents == 1
    await again.close()


async def test_two_at_once_make_one_base(tmp_path: Path, engine: Engine) -> None:
    desk = make_desk(tmp_path, engine)
    made = await asyncio.gather(*(desk.create("north", BaseSpec(base="rivers")) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(one, AlreadyExistsError) for one in made) == 3
    dropped = await asyncio.gather(*(desk.drop("north", "rivers") for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(one, NotFoundError) for one in dropped) == 3
    assert dropped.count(None) == 1
    await desk.close()


async def test_a_change_that_is_cancelled_is_made_as_a_whole_and_told(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    dropping = asyncio.ensure_future(desk.drop("north", "rivers"))
    await asyncio.sleep(0.005)
    dropping.cancel()
    await asyncio.wait([dropping])
    assert dropping.cancelled() == bool(await desk.bases("north"))
    await desk.close()


async def closed(folder: Path) -> None:
    """Returns when nobody has the base open: only one process can, and only once."""
    async with asyncio.timeout(10):
        while True:
            try:
                await asyncio.to_thread(lambda: FaissRetriever().open(folder / "north" / "rivers" / "content").close())
                return
            except TaskloomError:
                await asyncio.sleep(0.02)


async def test_a_base_that_nobody_uses_is_closed_and_opened_again_by_who_asks(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine, idle_s=0.1)
    for expected in ("6650", "6650"):
        await closed(tmp_path)
        assert (await ask(desk, "What length has the river Nile?")).answer == expected
    await closed(tmp_path)
    assert await desk.upsert("north", "rivers", documents(document("elbe", "The Elbe has a length of 1094 kilometres.")))
    assert (await ask(desk, "What length has the Elbe?")).answer == "1094"
    await desk.close()
    await closed(tmp_path)


async def test_a_base_in_use_is_never_closed_for_being_idle(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine, idle_s=0.05)
    goes_on = asyncio.Event()

    async def slowly() -> AsyncIterator[Document]:
        yield document("elbe", "The Elbe has a length of 1094 kilometres.")
        await goes_on.wait()

    changing = asyncio.ensure_future(desk.upsert("north", "rivers", slowly()))
    await asyncio.sleep(0.3)
    with pytest.raises(TaskloomError):
        FaissRetriever().open(tmp_path / "north" / "rivers" / "content")
    goes_on.set()
    assert (await changing).changed == ("elbe",)
    await desk.close()


async def test_looking_at_bases_opens_only_those_that_are_wanted_and_keeps_none_open(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine, idle_s=0.1)
    await desk.create("north", BaseSpec(base="secret"))
    await closed(tmp_path)
    await desk.bases("north", lambda name: name == "rivers")
    looking = asyncio.ensure_future(_looking(desk))
    await closed(tmp_path)
    looking.cancel()
    assert [info.base for info in await desk.bases("north", lambda name: name == "rivers")] == ["rivers"]
    assert [one.place.spec.base for one in desk._open.values()] in ([], ["rivers"])
    await desk.close()


async def _looking(desk: KnowledgeDesk) -> None:
    while True:
        await desk.bases("north", lambda name: name == "rivers")
        await asyncio.sleep(0.05)


async def test_asking_while_idle_bases_are_closed_never_fails(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine, idle_s=0.001)

    async def asking() -> None:
        for number in range(25):
            assert (await ask(desk, "What length has the river Nile?")).answer == "6650"
            await asyncio.sleep(0.0005 * (number % 7))

    await asyncio.gather(*(asking() for _ in range(3)))
    await desk.drop("north", "rivers")
    assert not await desk.bases("north")
    await desk.close()


async def test_a_drop_that_waits_and_is_given_up_drops_nothing(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    goes_on = asyncio.Event()
    engine.embeds_after = goes_on
    changing = asyncio.ensure_future(desk.upsert("north", "rivers", documents(document("elbe", "The Elbe is a river."))))
    await asyncio.sleep(0.1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(desk.drop("north", "rivers"), 0.1)
    goes_on.set()
    await changing
    assert (await desk.stats("north", "rivers")).stats.documents == 4
    await desk.close()


async def test_a_drop_that_fails_leaves_the_base_as_it_was(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = await filled(tmp_path, engine)

    def refuse(*_: Any) -> Path:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(desk._folders, "put_aside", refuse)
        with pytest.raises(OSError, match="Read-only"):
            await desk.drop("north", "rivers")
    assert (await ask(desk, "What length has the river Nile?")).answer == "6650"
    await desk.drop("north", "rivers")
    assert not await desk.bases("north")
    await desk.close()


async def test_who_waits_for_a_base_to_be_opened_may_give_up(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await filled(tmp_path, engine)).close()
    desk = make_desk(tmp_path, engine)
    opened, whole = threading.Event(), FaissRetriever.open

    def slowly(self: FaissRetriever, folder: Path) -> Any:
        assert opened.wait(10)
        return whole(self, folder)

    monkeypatch.setattr(FaissRetriever, "open", slowly)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask(desk, "What length has the river Nile?"), 0.1)
    assert time.monotonic() - began < 5
    opened.set()
    assert (await ask(desk, "What length has the river Nile?")).answer == "6650"
    assert [one.users for one in desk._open.values()] == [0]
    await desk.close()


async def test_a_large_upsert_asks_about_few_passages_at_a_time(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    most, running = 0, 0
    infer = engine.infer

    async def counted(call: InferCall, send: Any = None) -> InferResult:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        try:
            return await infer(call, send)
        finally:
            running -= 1

    engine.infer = counted  # type: ignore[method-assign]
    told = await desk.upsert("north", "rivers", documents(*(document(str(n), f"River {n} is long.") for n in range(300))))
    assert len(told.changed) == 300
    assert 1 < most <= 64
    await desk.close()


async def test_when_a_reader_fails_nothing_is_read_any_more(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    infer, ended = engine.infer, 0

    async def second_fails(call: InferCall, send: Any = None) -> InferResult:
        nonlocal ended
        if call.model.name == "numbers-en":
            if "Nile" in call.input["context"]:
                raise OverloadedError("too much", 1.0)
            await asyncio.sleep(0.2)
            ended += 1
        return await infer(call, send)

    engine.infer = second_fails  # type: ignore[method-assign]
    with pytest.raises(OverloadedError):
        await ask(desk, "What length has the river Danube, and the Nile?")
    await asyncio.sleep(0.4)
    assert ended == 0
    await desk.close()


async def test_what_the_model_can_not_take_keeps_no_other_document_out(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    engine.refuses = "unspeakable"
    result = await desk.upsert(
        "north", "rivers", documents(document("bad", "An unspeakable text."), document("good", "A fine text."))
    )
    assert result.changed == ("good",)
    assert [(one.document_id, "unspeakable" in one.reason) for one in result.refused] == [("bad", True)]
    engine.fails = OverloadedError("too much to do", retry_after_s=1.0)
    with pytest.raises(OverloadedError):
        await desk.upsert("north", "rivers", documents(document("later", "Some text of more than one word.")))
    engine.fails = None
    assert (await desk.stats("north", "rivers")).stats.documents == 4
    await desk.close()


async def test_a_damaged_base_takes_no_other_down(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    await desk.create("south", BaseSpec(base="secret"))
    await desk.create("north", BaseSpec(base="broken"))
    for spec in (tmp_path / "south" / "secret" / "base.json", tmp_path / "north" / "broken" / "base.json"):
        spec.write_bytes(b"")
    assert (await ask(desk, "What length has the river Nile?")).answer == "6650"
    assert [info.base for info in await desk.bases("north")] == ["rivers"]
    with pytest.raises(ArtifactError) as caught:
        await desk.stats("north", "broken")
    assert str(tmp_path) not in caught.value.message
    await desk.close()


async def test_languages_are_told_apart_by_their_first_part(tmp_path: Path, engine: Engine) -> None:
    desk = await filled(tmp_path, engine)
    before = len(engine.embedded())
    await desk.upsert("north", "rivers", documents(document("thames", "The Thames has 346 kilometres.", language="EN-GB")))
    assert len(engine.embedded()) == before + 1
    await desk.close()


async def test_only_words_can_be_searched_where_there_are_no_vectors(tmp_path: Path, engine: Engine) -> None:
    desk = make_desk(tmp_path, engine, languages={})
    await desk.create("north", BaseSpec(base="rivers"))
    await desk.upsert("north", "rivers", documents(NILE))
    assert (await desk.search("north", SearchCall(base="rivers", query="Nile"))).hits
    with pytest.raises(UnsupportedError, match="by words"):
        await desk.search("north", SearchCall(base="rivers", query="Nile", mode="dense"))
    await desk.close()
