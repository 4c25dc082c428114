"""`taskloom questions`: rows to train a reader on, made from plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import random

    from taskloom.core.task import Example
    from taskloom.plugins.commands import CliContext

TEXTS = "fill-mask"
"""The task that reads files of plain text."""


@click.command()
@click.argument("texts", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write (.jsonl).")
@click.option(
    "--count", type=click.IntRange(min=1), default=40_000, show_default=True, help="How many, if there is text enough."
)
@click.option("--each", type=click.IntRange(min=1), default=2, show_default=True, help="At most so many on each passage.")
@click.option("--seed", type=click.IntRange(min=0), default=13, show_default=True)
@click.pass_obj
def questions(cli: CliContext, texts: tuple[Path, ...], *, out: Path, count: int, each: int, seed: int) -> None:
    """Make questions from plain TEXTS for the first stage of a reader's training (`first` in a recipe's [data]).

    TEXTS are documents between blank lines (.txt) or one a line (.jsonl), Chinese or English. A sentence without a part of it
    becomes a question, the part its answer. The same files and seed give the same rows.
    """
    import random
    from contextlib import suppress

    from taskloom.core.errors import DataError

    if out.suffix != ".jsonl":
        raise click.UsageError(f"--out {out}: the rows are JSON lines; give a file that ends in .jsonl")
    if any(out.exists() and out.samefile(path) for path in texts):
        raise click.UsageError(f"--out {out} is one of the texts; give another file")
    task = cli.registry.tasks.get(TEXTS)
    rows = _rows([task.rows(path) for path in texts], each, random.Random(seed))
    aside = out.with_name(f".{out.name}.new")
    made = 0
    try:
        with aside.open("w", encoding="utf-8") as stream:
            for row in islice(rows, count):
                stream.write(row + "\n")
                made += 1
        if not made:
            raise DataError(f"{texts[0]} has no sentence that is long enough to ask for a part of it", path=str(texts[0]))
        aside.replace(out)
    except OSError as exc:
        raise DataError(f"{out} can't be written: {exc.strerror}", path=str(out)) from exc
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    click.echo(f"{made} questions in {out}")


def _rows(files: Sequence[Sequence[Example[Any]]], each: int, dice: random.Random) -> Iterator[str]:
    """The questions of all documents, in an order of chance, as lines of JSON."""
    import json

    from taskloom.plugins.tasks.qa.cloze import cloze_questions

    documents = [(rows, place) for rows in files for place in range(len(rows))]
    dice.shuffle(documents)
    for rows, place in documents:
        for cloze in cloze_questions(rows[place].target.text, dice, each=each):
            answers = [{"text": cloze.passage[start:end], "answer_start": start} for start, end in cloze.answers]
            yield json.dumps({"question": cloze.question, "context": cloze.passage, "answers": answers}, ensure_ascii=False)
