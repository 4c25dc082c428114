"""Answers for people, on a console of a known width."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from taskloom.core.types import InferResult, ModelDescription, ModelInfo
from taskloom.sdk.cli.inputs import Kind
from taskloom.sdk.cli.quickstart import _tour
from taskloom.sdk.cli.render import conversation, plain, show_answer, show_input


def result(task, **output):
    return InferResult(request_id="r", model="m", version="1", task=task, output=output)


def shown(renderable, width=100, colour=False):
    stream = io.StringIO()
    system = "standard" if colour else None
    Console(file=stream, width=width, highlight=False, force_terminal=colour, color_system=system).print(renderable)
    return stream.getvalue()


def entity(text, word, label="PER", score=0.9, source="model"):
    start = text.index(word)
    return {"label": label, "start": start, "end": start + len(word), "text": word, "score": score, "source": source}


def test_entities_are_a_table_and_coloured_in_the_text():
    text = "🙂 马云在杭州创办了阿里巴巴。"
    entities = [entity(text, "马云"), entity(text, "杭州", "LOC", 1.0, "dictionary"), entity(text, "阿里巴巴", "ORG")]
    answer = result("ner", entities=entities)
    lines = shown(show_answer(answer, {"text": text})).splitlines()
    assert [line.split() for line in lines] == [
        ["PER", "马云", "0.900"],
        ["LOC", "杭州", "dictionary"],
        ["ORG", "阿里巴巴", "0.900"],
    ]
    starts = {cell_len(line[: line.index(word)]) for line, word in zip(lines, ("0.900", "dictionary", "0.900"), strict=True)}
    assert len(starts) == 1  # columns line up though the characters are two cells wide
    coloured = shown(show_input({"text": text}, {"text": Kind.TEXT}, answer), colour=True)
    assert "\x1b[1;36m马云\x1b[0m在\x1b[1;32m杭州\x1b[0m" in coloured
    assert "no entities" in shown(show_answer(result("ner", entities=[]), {}))


def test_control_characters_neither_act_nor_shift_what_is_coloured():
    text = "a\r\n\x1b[2J\x07 Bob"
    answer = result("ner", entities=[entity(text, "Bob")])
    coloured = shown(show_input({"text": text}, {}, answer), colour=True)
    assert "\x1b[1;36mBob\x1b[0m" in coloured
    assert "\x1b[2J" not in coloured
    assert len(plain(text)) == len(text)


def test_an_answer_has_its_surroundings():
    context = "x" * 20 + " word" * 40 + " built by Joseph Strauss in 1937," + " word" * 40
    start = context.index("Joseph")
    best = {"text": "Joseph Strauss", "start": start, "end": start + 14, "score": 0.914}
    other = {"text": "1937", "start": start + 18, "end": start + 22, "score": 0.05}
    answer = result("qa", answers=[best, other], no_answer_score=0.01)
    lines = shown(show_answer(answer, {"question": "Who?", "context": context}), width=240).splitlines()
    assert lines[0].rstrip() == "Joseph Strauss 0.914"
    assert "… word" in lines[1]
    assert "built by Joseph Strauss in 1937, word" in lines[1]
    assert lines[1].rstrip().endswith("word …")
    assert lines[2].rstrip() == "1937 0.050"
    none = shown(show_answer(result("qa", answers=[], no_answer_score=0.97), {"context": context}))
    assert "no answer in the text (0.970)" in none


def test_a_summary_is_wrapped_to_the_width():
    summary = "市议会周二投票决定，到2030年用电动公交车取代全部柴油公交车。" * 5
    lines = shown(show_answer(result("summarization", summary=summary, truncated=True), {}), width=60).splitlines()
    assert all(cell_len(line) <= 60 for line in lines)
    assert "".join(line.strip() for line in lines).startswith(summary)
    assert "was not read" in " ".join(lines)


def test_recommendations_have_reasons_and_say_what_is_unknown():
    reasons = [{"item": "5", "title": "", "similarity": 0.614}, {"item": "7", "title": "Trigun", "similarity": -0.06}]
    items = [
        {"item": "20", "title": "Cowboy Bebop", "score": 7.25, "reasons": reasons},
        {"item": "6", "title": "", "score": 1.5, "reasons": []},
    ]
    answer = result("recommendation", items=items, unknown=["nope"])
    lines = [line.rstrip() for line in shown(show_answer(answer, {})).splitlines()]
    assert lines == ["Cowboy Bebop 7.250 [20]", "  near to 5 0.61", "6 1.500 [6]", "not known to the model: nope"]
    assert "… and 1 more" in shown(show_answer(answer, {}, limit=1))


def test_labels_of_images_and_texts():
    labels = [{"label": "Sneaker", "score": 0.97}, {"label": "[bold]Bag", "score": 0.02}]
    assert (
        shown(show_answer(result("vision", labels=labels, width=1, height=1), {})).split("\n")[1].strip() == "[bold]Bag 0.020"
    )
    assert "threshold" in shown(show_answer(result("classification", labels=[]), {}))


@pytest.mark.parametrize(
    ("task", "output"), [("stranger", {"words": [{"w": "a", "p": 0.5}]}), ("ner", {"words": [{"w": "a"}]})]
)
def test_other_outputs_are_lines(task, output):
    assert shown(show_answer(result(task, **output), {})).startswith("a")


def test_objects_inside_of_objects_are_a_line():
    gap = {
        "start": 7,
        "end": 13,
        "candidates": [{"score": 0.93, "token": "都"}, {"token": "府", "score": 0.02}],
        "target_score": None,
    }
    assert shown(show_answer(result("fill-mask", gaps=[gap]), {})).rstrip() == "7-13: 都 0.930, 府 0.020"


def test_a_vector_is_its_first_numbers():
    vector = [0.123456, *[-0.05] * 383]
    lines = shown(show_answer(result("embedding", vector=vector, truncated=True), {})).splitlines()
    told = "vector: 0.123 -0.050 -0.050 -0.050 -0.050 -0.050 … (384 numbers)"
    assert [line.rstrip() for line in lines] == [told, "truncated: True"]


def test_inputs_are_shortened_and_files_are_sizes():
    asked = {"question": "Who?", "context": "长" * 1000, "image": "A" * 682 + "==", "history": ["1", "2"], "user": ""}
    kinds = {"question": Kind.TEXT, "context": Kind.TEXT, "image": Kind.BINARY, "history": Kind.LIST, "user": Kind.TEXT}
    lines = shown(show_input(asked, kinds), width=2000).splitlines()
    assert lines[0].startswith("question: Who?")
    assert "… (1,000 characters)" in lines[1]
    assert lines[1].count("长") == 240
    assert lines[2].startswith("image: <image, 511 bytes>")
    assert lines[3].startswith("history: 1, 2")
    assert len(lines) == 4
    assert shown(show_input({"text": "word " * 100}, {}), width=2000).split("…")[0].endswith("word ")
    assert shown(show_input({"history": ["5"]}, kinds)).startswith("history: 5")


def test_short_inputs_stand_beside_their_answers_and_long_ones_above():
    short = [(Text("hi"), Text("a 0.9")), (Text("图书馆"), Text("b 0.8"))]
    lines = shown(conversation(short)).splitlines()
    assert [" ".join(line.split()) for line in lines if line.strip()][2:] == ["hi a 0.9", "图书馆 b 0.8"]
    lines = shown(conversation([*short, (Text("word " * 60), Text("c 0.7"))]), width=240).splitlines()
    assert all(cell_len(line) <= 100 for line in lines)
    assert [line.rstrip() for line in lines[:4]] == ["hi", "    a 0.9", "图书馆", "    b 0.8"]
    assert lines[-1].rstrip() == "    c 0.7"


class Models:
    """A client with two models that answer with their input's length."""

    def models(self):
        return [
            ModelInfo(name="seer", version="1", task="vision", description="Sees [things]. " + "And says so. " * 12),
            ModelInfo(name="b", version="2", task="classification"),
        ]

    def describe(self, name):
        info = next(info for info in self.models() if info.name == name)
        field = {"type": "string", "contentEncoding": "base64"} if name == "seer" else {"type": "string"}
        schema = {"properties": {"x": field}}
        examples = tuple({"x": "AAEC" * 400} for _ in range(5))
        return ModelDescription(info=info, input_schema=schema, output_schema={}, params_schema={}, examples=examples)

    def infer(self, name, example):
        task = self.describe(name).info.task
        return result(task, labels=[{"label": f"l{n}", "score": 0.5} for n in range(9)], width=1, height=1)


def test_the_tour_fits_a_terminal_and_keeps_whole_inputs_for_json():
    stream = io.StringIO()
    results = _tour(Models(), Console(file=stream, width=100, highlight=False))
    assert [(r["task"], r["model"]) for r in results] == [("classification", "m")] * 3 + [("vision", "m")] * 3
    assert results[-1]["input"] == {"x": "AAEC" * 400}
    told = stream.getvalue()
    assert all(cell_len(line) <= 100 for line in told.splitlines())
    assert told.index("classification ──") < told.index("b@2") < told.index("vision ──") < told.index("seer@1 Sees [things].")
    assert told.count("<x, 1,200 bytes>") == 3
    assert told.count("l2 0.500") == 6
    assert "l3" not in told
