"""Ways in which inputs go wrong or are put otherwise: typing errors, letter case, wide letters, synonyms and denial in texts;
noise, blur and a shift in pictures.

Where a task's answers are places in the text (`TaskPlugin.marked`), every character keeps its place, so that they stay true:
synonyms are then of the same length, and nothing is denied. The same rows and seed give the same changes.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel

from taskloom.core.robustness import Perturbation
from taskloom.core.task import Example, TaskPlugin
from taskloom.plugins._shared.negation import negated
from taskloom.plugins._shared.synonyms import read_lexicon, with_synonyms

TYPO_SHARE = 0.05
"""Of the characters; a text of twenty letters has one."""
NEIGHBOURS = {
    letter: row[max(0, i - 1) : i] + row[i + 1 : i + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for i, letter in enumerate(row)
}
"""The keys beside a letter's, on a keyboard as most have it."""
WIDE = {code: chr(code - 0x21 + 0xFF01) for code in range(0x21, 0x7F)}
NARROW = {ord(wide): chr(code) for code, wide in WIDE.items()}
NOISE, BLUR, SHIFT = 0.08, 0.03, 0.08
"""The noise's standard deviation as a share of the brightness; the blur's radius and the shift as shares of the side."""

RowChange = Callable[[Example[Any], random.Random], Example[Any]]
TextChange = Callable[[str, random.Random], str]
PictureChange = Callable[[Any, random.Random], Any]


def perturbations(task: TaskPlugin[Any, Any, Any]) -> tuple[Perturbation, ...]:
    """Those that fit the task's input: for its texts, for its pictures, or for both."""
    texts, pictures = _fields(task)
    text_changes: tuple[tuple[str, str, TextChange], ...] = (
        ("typos", "5% of the letters are the next key's, or change places with the letter behind", typos),
        ("upper case", "all in capitals", lambda text, _: upper(text)),
        ("lower case", "no capitals", lambda text, _: lower(text)),
        ("full width", "Latin letters, digits and marks as wide as Chinese ones", lambda text, _: text.translate(WIDE)),
        ("half width", "wide letters, digits and marks as narrow as Latin ones", lambda text, _: text.translate(NARROW)),
    )
    picture_changes: tuple[tuple[str, str, PictureChange], ...] = (
        ("noise", f"Gaussian noise, {NOISE:.0%} of the brightness", noise),
        ("blur", f"Gaussian blur, {BLUR:.0%} of the side", blur),
        ("shift", f"moved by {SHIFT:.0%} of the side", shift),
    )
    found = [Perturbation(name, told, _on_texts(task, texts, change)) for name, told, change in text_changes if texts]
    if texts:
        found += [
            Perturbation(
                "synonyms",
                "about half of the words that have one are exchanged for a synonym",
                _on_words(task, texts),
                capability="taxonomy",
            ),
            Perturbation(
                "negation",
                "the first verb is denied, or the first denial is taken back",
                _denied(task, texts),
                capability="negation",
                keeps_answer=False,
            ),
        ]
    found += [Perturbation(name, told, _on_pictures(pictures, change)) for name, told, change in picture_changes if pictures]
    return tuple(found)


def _fields(task: TaskPlugin[Any, Any, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The input's fields that are texts (or lists of them), and those that are pictures."""
    told = task.Input.model_json_schema().get("properties", {})
    pictures = tuple(name for name, field in told.items() if str(field.get("contentMediaType", "")).startswith("image/"))
    wanted = task.noisy_fields or ((task.text_field,) if task.text_field else tuple(told))
    return tuple(name for name in wanted if name not in pictures), pictures


def _on_words(task: TaskPlugin[Any, Any, Any], fields: Sequence[str]) -> RowChange:
    lexicon = read_lexicon()

    def applied(row: Example[Any], chance: random.Random) -> Example[Any]:
        marked = task.marked(row)

        def change(text: str, chance: random.Random) -> str:
            return with_synonyms(text, chance, lexicon, fixed=marked or (), same_length=marked is not None)

        return _on_texts(task, fields, change)(row, chance)

    return applied


def _denied(task: TaskPlugin[Any, Any, Any], fields: Sequence[str]) -> RowChange:
    deny = _on_texts(task, fields, lambda text, _: negated(text))
    return lambda row, chance: deny(row, chance) if task.marked(row) is None else row


def _on_texts(task: TaskPlugin[Any, Any, Any], fields: Sequence[str], change: TextChange) -> RowChange:
    around = re.compile(f"({'|'.join(map(re.escape, task.fixed_marks))})") if task.fixed_marks else None

    def changed_text(text: str, chance: random.Random) -> str:
        """What lies between the marks that stay is changed by itself."""
        if around is None:
            return change(text, chance)
        parts = around.split(text)
        return "".join(part if i % 2 or not part else change(part, chance) for i, part in enumerate(parts))

    def applied(row: Example[Any], chance: random.Random) -> Example[Any]:
        changed: dict[str, Any] = {}
        for name in fields:
            value = getattr(row.input, name)
            if isinstance(value, str):
                changed[name] = changed_text(value, chance)
            elif isinstance(value, tuple) and all(isinstance(part, str) for part in value):
                changed[name] = tuple(changed_text(part, chance) for part in value)
        return _with_input(row, changed)

    return applied


def _on_pictures(fields: Sequence[str], change: PictureChange) -> RowChange:
    def applied(row: Example[Any], chance: random.Random) -> Example[Any]:
        from PIL import Image

        changed: dict[str, Any] = {}
        for name in fields:
            with Image.open(io.BytesIO(getattr(row.input, name))) as picture:
                plain = picture.convert("L" if picture.mode in {"1", "L", "I", "I;16", "LA"} else "RGB")
            written = io.BytesIO()
            change(plain, chance).save(written, "PNG")
            changed[name] = written.getvalue()
        return _with_input(row, changed)

    return applied


def _with_input(row: Example[Any], changed: dict[str, Any]) -> Example[Any]:
    given: BaseModel = row.input
    return row.model_copy(update={"input": given.model_copy(update=changed)})


def typos(text: str, chance: random.Random) -> str:
    """Neighbouring keys and swapped letters; Chinese has no keys of its own here, and characters change places. The first
    character of a word stays: people see that one."""
    letters = list(text)
    for i in range(1, len(letters)):
        if not letters[i].isalpha() or not letters[i - 1].isalpha() or chance.random() >= TYPO_SHARE:
            continue
        near = NEIGHBOURS.get(letters[i].lower(), "")
        if near and chance.random() < 0.5:
            key = chance.choice(near)
            letters[i] = key.upper() if letters[i].isupper() else key
        elif i + 1 < len(letters) and letters[i + 1].isalpha():
            letters[i], letters[i + 1] = letters[i + 1], letters[i]
    return "".join(letters)


def upper(text: str) -> str:
    """
    >>> upper("Straße 5")
    'STRAßE 5'
    """
    return "".join(big if len(big := letter.upper()) == 1 else letter for letter in text)


def lower(text: str) -> str:
    return "".join(small if len(small := letter.lower()) == 1 else letter for letter in text)


def noise(picture: Any, chance: random.Random) -> Any:
    import numpy as np
    from PIL import Image

    values = np.asarray(picture, dtype=np.float32)
    drawn = np.random.default_rng(chance.getrandbits(32)).normal(0.0, 255 * NOISE, values.shape)
    return Image.fromarray(np.clip(values + drawn, 0, 255).astype(np.uint8))


def blur(picture: Any, _: random.Random) -> Any:
    from PIL import ImageFilter

    return picture.filter(ImageFilter.GaussianBlur(BLUR * min(picture.size)))


def shift(picture: Any, chance: random.Random) -> Any:
    """To one of the eight sides; what comes in is the colour of the corner."""
    from PIL import Image

    across, down = chance.choice([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y])
    moved = Image.new(picture.mode, picture.size, picture.getpixel((0, 0)))
    moved.paste(picture, (round(across * SHIFT * picture.width), round(down * SHIFT * picture.height)))
    return moved
