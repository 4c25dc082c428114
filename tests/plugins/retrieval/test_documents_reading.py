from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from pdf_files import pdf_bytes

from taskloom.core.errors import NotFoundError
from taskloom.core.knowledge import Document, Refused
from taskloom.plugins.retrieval.documents.reading import ReadConfig, list_files, read_documents

KOREAN = (
    "이 설명서는 공유기를 처음 설치하는 방법을 알려 드립니다. 전원을 연결하고 잠시 기다려 주십시오. "
    "무선 이름과 암호는 제품 바닥에 적혀 있습니다. 문제가 있으면 고객센터로 전화해 주세요."
)
CHINESE = "我的银行卡在哪里，请帮我找一找。"


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def ids(found: list[Document | Refused]) -> list[str]:
    return [entry.document_id for entry in found]


def test_a_folder_of_every_kind_is_read_in_a_stable_order(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "b/page.html": "<title>Page</title><p>Hello.</p>",
        "b/book.pdf": pdf_bytes([["Hello from a page."]], title="Book"),
        "a.md": "# Notes\n\nHello.",
        "c/plain.TXT": "Hello.\r\n",
        "faq.csv": "question,answer\nHow?,So.\n",
        "rows.jsonl": '{"text": "Hello."}\n',
        "tab.tsv": "text\tyear\nHello.\t2026\n",
        ".git/config.txt": "hidden",
        "c/.hidden.txt": "hidden",
    }
    folder = write(tmp_path / "docs", files)
    found = list(read_documents([folder]))
    assert ids(found) == ["a.md", "faq.csv#1", "rows.jsonl#1", "tab.tsv#1", "b/book.pdf", "b/page.html", "c/plain.TXT"]
    documents = {entry.document_id: entry for entry in found if isinstance(entry, Document)}
    assert len(documents) == len(found)
    assert {name: document.title for name, document in documents.items() if document.title} == {
        "a.md": "Notes",
        "b/book.pdf": "Book",
        "b/page.html": "Page",
    }
    assert documents["b/book.pdf"].text == "Hello from a page."
    assert documents["c/plain.TXT"].text == "Hello."
    assert documents["faq.csv#1"].question == "How?"
    assert documents["b/page.html"].source == "b/page.html"
    assert [file.document_id for file in list_files([folder])] == [name.split("#")[0] for name in ids(found)]


def test_ids_are_the_same_however_the_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "docs", {"x/cafe\u0301.txt": "Hello."})
    monkeypatch.chdir(folder / "x")
    for path in (folder, Path(".."), folder / "x" / ".."):
        assert ids(list(read_documents([path]))) == ["x/café.txt"]
    assert ids(list(read_documents([folder / "x" / "cafe\u0301.txt"]))) == ["café.txt"]
    assert ids(list(read_documents([folder], base=tmp_path))) == ["docs/x/café.txt"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (f"\ufeff{CHINESE}".encode(), CHINESE),
        (CHINESE.encode("utf-16"), CHINESE),
        (b"\xfe\xff" + CHINESE.encode("utf-16-be"), CHINESE),
        (CHINESE.encode("utf-32"), CHINESE),
        (CHINESE.encode("gb18030"), CHINESE),
        ("請問銀行卡在哪裡？".encode("gb18030"), "請問銀行卡在哪裡？"),
        (("Router 说明书：" + CHINESE).encode("gbk"), "Router 说明书：" + CHINESE),
    ],
    ids=["bom", "utf-16", "utf-16-be", "utf-32", "gb18030", "traditional", "mixed"],
)
def test_encodings(tmp_path: Path, content: bytes, text: str) -> None:
    [document] = read_documents([write(tmp_path, {"a.txt": content})])
    assert isinstance(document, Document)
    assert document.text == text


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", "déjà vu, ça va très bien".encode("latin-1"), "byte 2 is neither UTF-8 nor GB18030; save it as UTF-8"),
        ("a.txt", "Müller grüßt Käthe".encode("latin-1"), "byte 2 is neither UTF-8 nor GB18030"),  # which would decode it
        ("a.txt", KOREAN.encode("euc-kr"), "neither UTF-8 nor GB18030"),  # which decodes it, into nonsense
        ("a.txt", b"\xff\xfea", "UTF-16"),
        ("a.txt", bytes(range(256)), "binary"),
        ("a.txt", b"\x01\x02\x03" * 50, "binary"),
        ("a.txt", b"", "nothing is left"),
        ("a.txt", "\ufeff \u200b\r\n".encode(), "nothing is left"),
        ("a.txt", b"x" * 2001, "2001 bytes; 2000 are the most"),
        ("a.csv", b"", "no rows"),
        ("a.docx", b"x", "files that end in .docx are not read; those that are: .txt"),
        ("README", b"x", "files that end in nothing are not read"),
    ],
)
def test_a_bad_file_is_refused_with_a_reason_and_the_rest_is_read(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    folder = write(tmp_path, {name: content, "z.txt": "Hello."})
    refused, document = read_documents([folder], ReadConfig(max_file_bytes=2000))
    assert isinstance(refused, Refused)
    assert refused.document_id == name
    assert reason in refused.reason
    assert str(tmp_path) not in refused.reason
    assert isinstance(document, Document)


def test_links_are_followed_inside_the_folder_only(tmp_path: Path) -> None:
    write(tmp_path, {"docs/a.txt": "Inside.", "secret.txt": "Outside.", "other/b.txt": "Outside."})
    folder = tmp_path / "docs"
    (folder / "in.txt").symlink_to(folder / "a.txt")
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "folder").symlink_to(tmp_path / "other")
    (folder / "loop").symlink_to(folder)
    (folder / "broken.txt").symlink_to(folder / "gone.txt")
    found = {entry.document_id: entry for entry in read_documents([folder])}
    texts = {name: entry.text for name, entry in found.items() if isinstance(entry, Document)}
    assert texts == {"a.txt": "Inside.", "in.txt": "Inside."}
    reasons = {name: entry.reason for name, entry in found.items() if isinstance(entry, Refused)}
    assert sorted(reasons) == ["broken.txt", "folder", "loop", "out.txt"]
    assert "leaves the folder" in reasons["out.txt"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")  # reading it would wait for ever
    [refused] = read_documents([tmp_path])
    assert isinstance(refused, Refused)
    assert "no file" in refused.reason


def test_a_second_document_with_the_same_id_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"one/a.txt": "First.", "two/a.txt": "Second.", "two/ids.jsonl": '{"id": "x", "text": "1"}\n' * 2})
    first, second, row, again = read_documents([tmp_path / "one", tmp_path / "two"])
    assert isinstance(first, Document)
    assert first.text == "First."
    assert isinstance(second, Refused)
    assert "this id" in second.reason
    assert isinstance(row, Document)
    assert isinstance(again, Refused)
    assert ids(list(read_documents([tmp_path / "one", tmp_path / "two"], base=tmp_path)))[:2] == ["one/a.txt", "two/a.txt"]


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no file or folder"):
        list(read_documents([tmp_path / "nowhere"]))


def test_a_name_that_is_no_text_is_still_told(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    Path(os.fsdecode(path)).write_bytes(b"Hello.")
    [document] = read_documents([tmp_path])
    assert document.document_id == "caf\ufffd.txt"
