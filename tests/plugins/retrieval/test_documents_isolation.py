"""Files that are made to do harm: they are refused, within their limits, and the next file is read."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from pdf_files import bomb

from taskloom.core.errors import MissingDependencyError
from taskloom.core.knowledge import Document, Refused
from taskloom.plugins.retrieval.documents import isolation, worker
from taskloom.plugins.retrieval.documents.isolation import IsolatedReader, Refusal
from taskloom.plugins.retrieval.documents.reading import ReadConfig, read_documents

LIMITS = ReadConfig(seconds=1, memory_bytes=400 << 20, max_characters=100_000)


def read(folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """The reason of each refusal, or the text."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    found = {}
    for entry in read_documents([folder], LIMITS):
        found[entry.document_id] = entry.text if isinstance(entry, Document) else entry.reason
        assert isinstance(entry, Document | Refused)
    return found


def test_a_bomb_is_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    content = bomb(30)
    assert len(content) < 2000  # of thirty megabytes
    found = read(tmp_path, {"a.md": b"Before.", "bomb.pdf": content, "z.html": b"<p>After.</p>"})
    assert found["a.md"] == "Before."
    assert found["z.html"] == "After."
    assert "takes more than" in found["bomb.pdf"]


def test_a_file_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "many.html").write_bytes(b"<p>" * 2_000_000)
    [refused] = read_documents([tmp_path], ReadConfig(memory_bytes=256 << 20))
    assert isinstance(refused, Refused)
    assert "for want of memory" in refused.reason


def test_a_file_that_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "STILL", 200.0)  # the clock must not be what ends it
    found = read(tmp_path, {"slow.md": b"[" * 400_000, "z.md": b"After."})
    assert found == {"slow.md": "reading it takes more than 1 s of processor time", "z.md": "After."}


def test_a_file_that_never_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.md")  # waiting takes no processor time
    monkeypatch.setattr(isolation, "STILL", 1.0)
    with IsolatedReader(LIMITS.memory_bytes, 1, 1000) as reader, pytest.raises(Refusal, match=r"takes more than 1 s$"):
        reader.read(tmp_path / "pipe.md", "markdown")


def test_a_file_with_too_much_text_is_refused(tmp_path: Path) -> None:
    found = read(tmp_path, {"long.html": b"<p>" + b"word " * 25_000, "long.txt": b"word " * 25_000})
    assert found["long.html"].endswith("characters of text; 100000 are the most; split it")
    assert found["long.txt"].endswith("characters; 100000 are the most; split it")


def test_no_process_is_started_for_plain_text_and_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("Hello.")
    monkeypatch.setattr(IsolatedReader, "_started", lambda self: pytest.fail("a process was started"))
    assert len(list(read_documents([tmp_path]))) == 1
    monkeypatch.undo()
    (tmp_path / "a.md").write_text("Hello.")
    with IsolatedReader(LIMITS.memory_bytes, 1, 1000) as reader:
        assert reader.read(tmp_path / "a.md", "markdown")["text"].strip() == "Hello."
        process = reader._process
    assert process is not None
    assert process.returncode is not None


def test_a_library_that_is_missing_or_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(content: bytes) -> dict[str, str]:
        raise ModuleNotFoundError("No module named 'lxml'", name="lxml")

    def broken(content: bytes) -> dict[str, str]:
        raise RecursionError("too deep")

    path = tmp_path / "a.html"
    path.write_text("x")
    monkeypatch.setattr(worker, "READERS", {"html": missing, "pdf": broken})
    assert worker.answer("html", path, 10, 1 << 30) == {"missing": "lxml"}
    assert worker.answer("pdf", path, 10, 1 << 30) == {"refused": "it can't be read: RecursionError: too deep"}
    monkeypatch.setattr(IsolatedReader, "_started", lambda self: FakeProcess({"missing": "lxml"}))
    monkeypatch.setattr(IsolatedReader, "_line", lambda self, process: process.reply)
    with pytest.raises(MissingDependencyError, match=r"pip install 'taskloom\[local\]'"):
        list(read_documents([path]))


class FakeProcess:
    def __init__(self, reply: dict[str, str]) -> None:
        self.reply = json.dumps(reply).encode() + b"\n"
        self.stdin = io.BytesIO()
