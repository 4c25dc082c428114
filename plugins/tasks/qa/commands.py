"""`taskloom questions`: rows to train a reader on, made from plain text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
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
    import json
    import random

    from taskloom.core.errors import DataError
    from taskloom.plugins.tasks.qa.cloze import cloze_questions

    task = cli.registry.tasks.get(TEXTS)
    dice = random.Random(seed)
    documents = [(rows, place) for rows in (task.rows(path) for path in texts) for place in range(len(rows))]
    dice.shuffle(documents)
    made = 0
    with out.open("w", encoding="utf-8") as stream:
        for rows, place in documents:
            for cloze in cloze_questions(rows[place].target.text, dice, each=each):
                answers = [{"text": cloze.passage[start:end], "answer_start": start} for start, end in cloze.answers]
                row = {"question": cloze.question, "context": cloze.passage, "answers": answers}
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                made += 1
                if made == count:
                    break
            if made == count:
                break
    if not made:
        raise DataError(f"{texts[0]} has no sentence that is long enough to ask for a part of it", path=str(texts[0]))
    click.echo(f"{made} questions in {out}")
