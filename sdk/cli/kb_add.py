"""`taskloom kb add`: documents on their way into a knowledge base, in batches that are each acknowledged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from taskloom.core.errors import InvalidInputError, TaskloomError
from taskloom.core.knowledge import Document, Refused
from taskloom.sdk.cli.documents import read_documents
from taskloom.sdk.cli.failures import ExitCode
from taskloom.sdk.cli.kb_render import refusals_shown
from taskloom.sdk.knowledge_calls import sendable

if TYPE_CHECKING:
    from taskloom.sdk.cli.context import CliContext
    from taskloom.sdk.knowledge import Knowledge

BATCH_CHARACTERS = 4_000_000
"""A batch is sent when it has so much text, however few its documents are."""


@dataclass
class Added:
    """What was acknowledged so far."""

    version: int = 0
    changed: int = 0
    unchanged: int = 0
    passages: int = 0
    refused: list[Refused] = field(default_factory=list)

    @property
    def documents(self) -> int:
        return self.changed + self.unchanged


def add_documents(cli: CliContext, base: Knowledge, paths: Sequence[Path], batch: int, timeout_s: float) -> int:
    added = Added()
    with _progress(cli) as advance:
        for documents in _batches(read_documents(cli.registry, paths), batch, added.refused):
            try:
                result = base.upsert(documents, timeout_s=timeout_s)
            except TaskloomError as error:
                if added.documents:
                    told = f"{error.message} ({added.documents} documents are in; the same command goes on from there)"
                    error.args = (told, *error.args[1:])
                raise
            added.version, added.passages = result.version, added.passages + result.passages
            added.changed, added.unchanged = added.changed + len(result.changed), added.unchanged + len(result.unchanged)
            added.refused.extend(result.refused)
            advance(len(documents))
    if added.refused and not cli.as_json:
        cli.error_console.print(refusals_shown(added.refused))
    cli.show({"base": base.name, **vars(added)}, lambda: _told(base.name, added))
    return ExitCode.SOME_ROWS_FAILED if added.refused else ExitCode.OK


def _told(base: str, added: Added) -> str:
    counts = f"{added.changed} documents put in ({added.passages} passages), {added.unchanged} unchanged"
    passed_over = f", {len(added.refused)} passed over" if added.refused else ""
    return f"{counts}{passed_over}; {base} is at version {added.version}"


def _batches(found: Iterator[Document | Refused], size: int, refused: list[Refused]) -> Iterator[list[Document]]:
    held: list[Document] = []
    characters = 0
    for one in found:
        if isinstance(one, Refused):
            refused.append(one)
            continue
        try:
            sendable(one)
        except InvalidInputError as error:
            refused.append(Refused(document_id=one.document_id, reason=error.message))
            continue
        held.append(one)
        characters += len(one.text)
        if len(held) >= size or characters >= BATCH_CHARACTERS:
            yield held
            held, characters = [], 0
    if held:
        yield held


@contextmanager
def _progress(cli: CliContext) -> Iterator[Callable[[int], None]]:
    """A bar on stderr if that is a terminal. How many documents there will be is known when all are read."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.completed:.0f} documents"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=cli.error_console) as bar:
        task = bar.add_task("documents", total=None)
        yield lambda count: bar.advance(task, count)
