"""Files and folders to documents. What can't be read is told, with its reason, and the rest goes on."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from taskloom.core.errors import NotFoundError
from taskloom.core.knowledge import Document, Refused
from taskloom.core.types import Frozen
from taskloom.plugins.retrieval.documents.cleaning import clean, clean_line
from taskloom.plugins.retrieval.documents.decoding import Undecodable, decode
from taskloom.plugins.retrieval.documents.isolation import IsolatedReader, Refusal
from taskloom.plugins.retrieval.documents.tables import documents_of_table, language_code

KINDS = {
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
"""What a file is, by how its name ends."""


class ReadConfig(Frozen):
    """What one file may take. The limits are for hostile files: a book has about a million characters."""

    max_file_bytes: int = Field(default=64 << 20, ge=1)
    max_characters: int = Field(default=20_000_000, ge=1)
    seconds: int = Field(default=30, ge=1)
    """Of processor time for one HTML, Markdown or PDF file."""
    memory_bytes: int = Field(default=1 << 30, ge=256 << 20)
    """Of the process that reads these."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that will be read. `document_id` is its path below the folder that was asked for, with slashes, in NFC. `refused`
    says why it won't, if that is known."""

    path: Path
    document_id: str
    refused: str = ""


def list_files(paths: Sequence[Path], base: Path | None = None) -> Iterator[FoundFile]:
    """The files that `read_documents` will read, in its order: how many they are, for a progress bar.

    A folder is gone through with all below it, by name; what is hidden (`.git`) is passed over. Links to files are followed if
    they stay in the folder, links to folders never. Raises `NotFoundError` for a path that isn't there."""
    for path in paths:
        if not path.exists():
            raise NotFoundError(f"there is no file or folder {path}; give files or folders of documents")
        if path.is_dir():
            yield from _below(path, base or path)
        else:
            yield _found(path, path.parent if base is None else base)


def _below(folder: Path, base: Path) -> Iterator[FoundFile]:
    root = folder.resolve()
    for place, folders, files in os.walk(folder):
        hidden = [name for name in folders if name.startswith(".")]
        links = [name for name in folders if name not in hidden and (Path(place) / name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in hidden and name not in links)
        for name in sorted([*files, *links]):
            if name.startswith("."):
                continue
            path = Path(place) / name
            found = _found(path, base)
            if name in links:
                yield FoundFile(path, found.document_id, "it is a link to a folder; name that folder itself")
            elif path.is_symlink() and not path.resolve().is_relative_to(root):
                yield FoundFile(path, found.document_id, "it is a link that leaves the folder; name its target itself")
            else:
                yield found


def _found(path: Path, base: Path) -> FoundFile:
    whole, above = path.absolute(), base.absolute()
    inside = whole.relative_to(above).as_posix() if whole.is_relative_to(above) else path.name
    readable = inside.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return FoundFile(path, unicodedata.normalize("NFC", readable))


def read_documents(
    paths: Sequence[Path], config: ReadConfig | None = None, *, base: Path | None = None
) -> Iterator[Document | Refused]:
    """The documents of files and folders, cleaned, and what was refused, in the order of `list_files`.

    A document's id is its path below the folder that it was found in (below `base`, if that is given), its file's name if the
    file itself was named; rows of a table add `#1`, `#2` and so on, unless they have an id of their own. A second document with
    the same id is refused. Raises `NotFoundError` for a path that isn't there, and `MissingDependencyError`."""
    limits = config or ReadConfig()
    seen: set[str] = set()
    with IsolatedReader(limits.memory_bytes, limits.seconds, limits.max_characters) as reader:
        for file in list_files(paths, base):
            for found in _documents_of(file, limits, reader):
                if isinstance(found, Refused):
                    yield found
                elif found.document_id in seen:
                    reason = f"a document before it has this id; this one is from {file.path.name}; give it another, or a base"
                    yield Refused(document_id=found.document_id, reason=reason)
                else:
                    seen.add(found.document_id)
                    yield found


def _documents_of(file: FoundFile, limits: ReadConfig, reader: IsolatedReader) -> Iterator[Document | Refused]:
    kind = KINDS.get(file.path.suffix.lower())
    try:
        reason = file.refused or _refusal(file, kind, limits)
        if reason or kind is None:
            raise Refusal(reason)
        if kind in ("html", "markdown", "pdf"):
            yield _document(file, **reader.read(file.path.resolve(), kind))
            return
        text = decode(file.path.read_bytes())
        if len(text) > limits.max_characters:
            raise Refusal(f"it has {len(text)} characters; {limits.max_characters} are the most; split it")
        if kind == "text":
            yield _document(file, text)
            return
        if not text.strip():
            raise Refusal("it has no rows")
        yield from documents_of_table(text.replace("\r\n", "\n").replace("\r", "\n"), kind, file.document_id)
    except (Refusal, Undecodable) as exc:
        yield Refused(document_id=file.document_id, reason=str(exc))
    except OSError as exc:
        yield Refused(document_id=file.document_id, reason=f"it can't be read: {exc.strerror}")


def _refusal(file: FoundFile, kind: str | None, limits: ReadConfig) -> str:
    """Why a file won't be read, as far as its name and size tell; empty if it will."""
    if kind is None:
        return f"files that end in {file.path.suffix or 'nothing'} are not read; those that are: {', '.join(KINDS)}"
    status = file.path.stat()
    if not stat.S_ISREG(status.st_mode):
        return "it is no file"
    if status.st_size > limits.max_file_bytes:
        return f"it has {status.st_size} bytes; {limits.max_file_bytes} are the most; split it"
    if len(file.document_id) > 500:
        return "its path has more than 500 characters; give a folder nearer to it"
    return ""


def _document(file: FoundFile, text: str, title: str = "", language: str = "") -> Document:
    content = clean(text)
    if not content:
        raise Refusal("nothing is left of it but blanks and what is no content")
    return Document(
        document_id=file.document_id,
        text=content,
        title=clean_line(title)[:500],
        language=language_code(language),
        source=file.document_id,
    )
