"""Files as documents for `taskloom kb add`. JSON Lines of documents are read here, with nothing installed; what a plugin reads
is read by the plugin."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from taskloom.core.errors import DataError, InvalidInputError, MissingDependencyError
from taskloom.core.knowledge import Document, Refused
from taskloom.sdk.knowledge_calls import as_document

if TYPE_CHECKING:
    from taskloom.core.registry import Registry

STDIN = Path("-")


def read_documents(registry: Registry, paths: Sequence[Path]) -> Iterator[Document | Refused]:
    """The documents in files, and what could not be taken for one. `-` is JSON Lines on stdin. Raises
    `MissingDependencyError` for files that no installed plugin reads."""
    others: list[Path] = []
    for path in paths:
        if path == STDIN:
            yield from _rows(sys.stdin.buffer, "stdin")
        elif _holds_documents(path):
            with path.open("rb") as stream:
                yield from _rows(stream, path.name)
        else:
            others.append(path)
    if others:
        yield from _by_plugin(registry, others)  # together: it sees to it that no two files have one id


def _by_plugin(registry: Registry, paths: Sequence[Path]) -> Iterable[Document | Refused]:
    found: Iterator[Document | Refused] | None = None
    if registry.hooks is not None:
        found = registry.hooks.hook.read_documents(paths=paths)
    if found is None:
        raise MissingDependencyError(
            f"no installed plugin reads {paths[0]}; install one with: pip install 'taskloom[local]' "
            '(JSON Lines of {"document_id": ..., "text": ...} need none)'
        )
    return found


def _holds_documents(path: Path) -> bool:
    """Whether it is JSON Lines whose first row is a document; rows of other forms are for a plugin to understand."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            first = next((line for line in stream if line.strip()), b"null")
        row: Any = json.loads(first.decode("utf-8-sig"))
    except (OSError, ValueError) as exc:
        raise DataError(f"{path} is no JSON Lines in UTF-8: {exc}", str(path), 1) from exc
    return isinstance(row, dict) and {"document_id", "text"} <= row.keys()


def _rows(stream: IO[bytes], name: str) -> Iterator[Document | Refused]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            if not isinstance(row, dict):
                raise InvalidInputError(f"a document is an object, and this is a {type(row).__name__}")
            yield as_document(row, number)
        except (ValueError, InvalidInputError) as exc:
            yield Refused(document_id=f"{name}:{number}", reason=str(exc))
