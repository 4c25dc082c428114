"""Inputs and outputs for people. The built-in tasks have forms of their own; any other output is shown as short lines. No width
is assumed: rich measures and wraps, wide characters included."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from taskloom.core.errors import InternalError
from taskloom.core.types import InferResult
from taskloom.sdk.cli.inputs import Kind
from taskloom.sdk.results import (
    AnswerResult,
    ClassificationResult,
    Entity,
    LabelScore,
    NerResult,
    RecommendResult,
    SummaryResult,
    VisionResult,
)

INPUT_CHARACTERS = 240
"""As much of a text is shown of an input."""
EXCERPT_CHARACTERS = 70
"""As much of a context is shown on each side of an answer."""
SHORT_CELLS = 60
"""Inputs up to this width stand beside their answers."""
NUMBERS = 6
"""So many numbers are shown of a vector."""
LINE_CELLS = 100
"""Longer lines of text are hard to read."""
_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red")
CUT = "…"


@dataclass(frozen=True, slots=True)
class _Reply:
    result: InferResult
    asked: Mapping[str, Any]
    limit: int | None


def show_answer(result: InferResult, asked: Mapping[str, Any], limit: int | None = None) -> RenderableType:
    """What a model answered to `asked`; at most `limit` labels, entities, answers or items of it."""
    reply = _Reply(result, asked, limit)
    try:
        return _FORMS.get(result.task, _lines)(reply)
    except InternalError:  # an answer of another version
        return _lines(reply)


def show_input(asked: Mapping[str, Any], kinds: Mapping[str, Kind], result: InferResult | None = None) -> Text:
    """The fields of an input, long ones shortened, bytes by their path or size, found entities coloured."""
    shown = Text()
    for name, value in asked.items():
        if value in (None, "", [], (), {}):
            continue
        kind = kinds.get(name, Kind.TEXT)
        if shown:
            shown.append("\n")
        if len(asked) > 1 or kind in {Kind.LIST, Kind.JSON}:
            shown.append(f"{name}: ", style="dim")
        shown.append_text(_input_value(name, value, kind, result))
    return shown


def conversation(pairs: Sequence[tuple[Text, RenderableType]]) -> RenderableType:
    """Inputs and answers: side by side if every input is short, else one below the other."""
    if all("\n" not in asked.plain and asked.cell_len <= SHORT_CELLS for asked, _ in pairs):
        table = Table("input", "answer", box=box.SIMPLE_HEAD)
        for asked, answer in pairs:
            table.add_row(asked, answer)
        return table
    return Group(*(Constrain(Group(asked, indented(answer, 4)), LINE_CELLS) for asked, answer in pairs))


def indented(shown: RenderableType, cells: int) -> RenderableType:
    return Padding(shown, (0, 0, 0, cells), expand=False)


def output_lines(output: Mapping[str, Any]) -> list[str]:
    """Any output: a list of objects is one line each, a vector its first numbers, anything else `name: value`.

    >>> output_lines({"labels": [{"score": 0.98321, "label": "lost_card"}], "truncated": False})
    ['lost_card 0.983']
    >>> output_lines({"gaps": [{"start": 7, "end": 13, "candidates": [{"token": "都", "score": 0.93}]}]})
    ['7-13: 都 0.930']
    >>> output_lines({"vector": [0.6, -0.64, 0.48]})
    ['vector: 0.600 -0.640 0.480']
    """
    lines: list[str] = []
    for name, value in output.items():
        if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            lines.extend(_short(item) for item in value)
        elif _is_vector(value):
            shown = " ".join(f"{number:.3f}" for number in value[:NUMBERS])
            lines.append(f"{name}: {shown}" + (f" {CUT} ({len(value):,} numbers)" if len(value) > NUMBERS else ""))
        elif value not in (None, False, [], ()):
            lines.append(f"{name}: {_short(value)}")
    return lines


def _is_vector(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, float) for item in value)


def plain(text: str) -> str:
    """One character for each: control characters can neither move the cursor nor shift what offsets point at.

    >>> plain("a\\tb\\x1b[2J")
    'a b\ufffd[2J'
    """
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if unicodedata.category(character) not in {"Cc", "Zl", "Zp"}:
        return character
    return " " if character.isspace() else "\ufffd"


# -- inputs ----------------------------------------------------------------------------------------------------------------


def _input_value(name: str, value: Any, kind: Kind, result: InferResult | None) -> Text:
    if isinstance(value, Path):
        return Text(plain(str(value)), style="cyan")
    if kind is Kind.BINARY:
        return Text(f"<{name}, {_size_bytes(value):,} bytes>", style="cyan")
    if isinstance(value, list | tuple):
        return Text(", ".join(plain(str(item)) for item in value), style="cyan")
    if isinstance(value, Mapping):
        return Text(", ".join(f"{plain(str(key))}={plain(str(item))}" for key, item in value.items()), style="cyan")
    text = plain(str(value))
    head = text[:INPUT_CHARACTERS]
    if len(text) > INPUT_CHARACTERS and " " in head:
        head = head[: head.rindex(" ")]
    shown = Text(head)
    if result is not None and result.task == NerResult.task:
        _colour_entities(shown, text, result)
    else:
        shown.stylize("cyan")
    if len(text) > len(head):
        shown.append(f" {CUT} ({len(text):,} characters)", style="dim")
    return shown


def _size_bytes(value: Any) -> int:
    """Of bytes, or of what base64 stands for."""
    return len(value) * 3 // 4 - value[-2:].count("=") if isinstance(value, str) else len(value)


def _colour_entities(shown: Text, text: str, result: InferResult) -> None:
    with suppress(InternalError):  # an answer of another version
        for entity, style in _styled(NerResult.of(result).entities):
            if plain(entity.text) == text[entity.start : entity.end]:
                shown.stylize(f"bold {style}", entity.start, min(entity.end, len(shown)))


def _styled(entities: Sequence[Entity]) -> list[tuple[Entity, str]]:
    """Each label has a colour, in the order in which labels appear."""
    labels = list(dict.fromkeys(entity.label for entity in entities))
    return [(entity, _COLOURS[labels.index(entity.label) % len(_COLOURS)]) for entity in entities]


# -- outputs of the built-in tasks -------------------------------------------------------------------------------------------


def _labels(reply: _Reply) -> RenderableType:
    typed = (VisionResult if reply.result.task == VisionResult.task else ClassificationResult).of(reply.result)
    shown = Text("\n").join(_label(label) for label in typed.labels[: reply.limit]) or Text(
        "no label reached the threshold", "dim"
    )
    return _truncated(shown, reply.result)


def _label(label: LabelScore) -> Text:
    return Text(f"{plain(label.label)} {label.score:.3f}")


def _entities(reply: _Reply) -> RenderableType:
    entities = NerResult.of(reply.result).entities
    if not entities:
        return Text("no entities", style="dim")
    table = Table.grid(padding=(0, 2))
    for entity, style in _styled(entities)[: reply.limit]:
        score = "dictionary" if entity.source == "dictionary" else f"{entity.score:.3f}"
        table.add_row(Text(plain(entity.label), style=style), Text(plain(entity.text)), Text(score, style="dim"))
    return _more(table, len(entities), reply.limit)


def _answers(reply: _Reply) -> RenderableType:
    typed = AnswerResult.of(reply.result)
    if typed.best is None:
        return Text(f"no answer in the text ({typed.no_answer_score:.3f})", style="dim")
    parts = [Text(f"{plain(answer.text)} {answer.score:.3f}") for answer in typed.answers[: reply.limit]]
    context = reply.asked.get("context")
    if isinstance(context, str):
        parts.insert(1, excerpt(context, typed.best.start, typed.best.end))
    return _more(Text("\n").join(parts), len(typed.answers), reply.limit)


def excerpt(context: str, start: int, end: int) -> Text:
    """What stands around an answer, cut between words where there are blanks."""
    first, last = max(0, start - EXCERPT_CHARACTERS), min(len(context), end + EXCERPT_CHARACTERS)
    before, after = plain(context[first:start]), plain(context[end:last])
    if first:
        before = f"{CUT} {before.split(' ', 1)[-1]}"
    if last < len(context):
        after = f"{after.rsplit(' ', 1)[0]} {CUT}"
    return Text.assemble((before, "dim"), (plain(context[start:end]), "bold"), (after, "dim"))


def _summary(reply: _Reply) -> RenderableType:
    typed = SummaryResult.of(reply.result)
    return _truncated(Text(plain(typed.summary)) if typed.summary else Text("no summary", "dim"), reply.result)


def _recommendations(reply: _Reply) -> RenderableType:
    typed = RecommendResult.of(reply.result)
    lines: list[Text] = []
    for item in typed.items[: reply.limit]:
        lines.append(Text(f"{plain(item.title or item.item)} {item.score:.3f}").append(f" [{plain(item.item)}]", "dim"))
        near = ", ".join(f"{plain(r.title or r.item)} {r.similarity:.2f}" for r in item.reasons if r.similarity > 0)
        if near:  # what points the other way is no reason for people
            lines.append(Text(f"  near to {near}", style="dim"))
    if not typed.items:
        lines.append(Text("no item is left", style="dim"))
    if typed.unknown:
        lines.append(Text(f"not known to the model: {', '.join(map(plain, typed.unknown))}", style="yellow"))
    return _more(Text("\n").join(lines), len(typed.items), reply.limit)


def _lines(reply: _Reply) -> RenderableType:
    return Text("\n".join(plain(line) for line in output_lines(reply.result.output)[: reply.limit]) or "(nothing)")


def _truncated(shown: Text, result: InferResult) -> Text:
    if result.output.get("truncated"):
        shown.append("\nthe end of the text was not read: it is longer than the model takes", style="yellow")
    return shown


def _more(shown: RenderableType, there_are: int, limit: int | None) -> RenderableType:
    if limit is None or there_are <= limit:
        return shown
    return Group(shown, Text(f"{CUT} and {there_are - limit} more", style="dim"))


_FORMS: Mapping[str, Callable[[_Reply], RenderableType]] = {
    ClassificationResult.task: _labels,
    NerResult.task: _entities,
    AnswerResult.task: _answers,
    SummaryResult.task: _summary,
    RecommendResult.task: _recommendations,
    VisionResult.task: _labels,
}


def _words_first(values: Iterable[Any]) -> list[Any]:
    """JSON objects that crossed the wire come in any order."""
    return sorted(values, key=lambda value: isinstance(value, float))


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        if isinstance(value.get("start"), int) and isinstance(value.get("end"), int):
            rest = {name: part for name, part in value.items() if name not in {"start", "end"}}
            return f"{value['start']}-{value['end']}: {_short(rest)}"
        return " ".join(_short(part) for part in _words_first(value.values()) if part is not None)
    if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
        return ", ".join(map(_short, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)
