"""The text of a PDF's pages, by PDFium: its lines, with where they stand and how large they are set."""

from __future__ import annotations

import re
from math import hypot
from typing import Any

from taskloom.plugins.retrieval.documents.html_text import Unreadable
from taskloom.plugins.retrieval.documents.pages import HYPHEN, Line, text_of_pages

MOST_PAGES = 5000
MOST_LINES = 1_000_000
WRONG_PASSWORD = 4
"""FPDF_ERR_PASSWORD of PDFium's `fpdfview.h`."""
LINE_END = re.compile("[\n\ufffe]")
"""PDFium writes U+FFFE for a hyphen at the end of a line, and no line feed then."""
NO_TITLES = (".doc", ".ppt", ".xls", ".pdf", ".indd", ".qxd", ".tex", "untitled", "microsoft word", "powerpoint", "无标题")
"""What programs put where a title belongs."""


def read_pdf(content: bytes) -> dict[str, str]:
    """`text` and `title`. Raises `Unreadable` for a PDF that needs a password, is damaged, is too long, or has no text."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as exc:
        if getattr(exc, "err_code", None) == WRONG_PASSWORD:
            raise Unreadable("it is encrypted; save it without a password") from exc
        raise Unreadable("it is damaged, or no PDF") from exc
    if len(document) > MOST_PAGES:
        raise Unreadable(f"it has {len(document)} pages; {MOST_PAGES} are the most; split it")
    pages: list[list[Line]] = []
    for number in range(len(document)):
        pages.append(_lines_of(document, number, pypdfium2.PdfiumError))
        if len(pages[-1]) > MOST_LINES:
            raise Unreadable(f"page {number + 1} has more than {MOST_LINES} lines")
    if not any(pages):
        raise Unreadable("no page has text: it looks scanned; run it through text recognition (OCR)")
    title = str(document.get_metadata_dict().get("Title") or "").strip()
    return {
        "text": text_of_pages(pages),
        "title": "" if any(mark in title.lower() for mark in NO_TITLES) else title,
        "language": "",
    }


def _lines_of(document: Any, number: int, failure: type[Exception]) -> list[Line]:
    """A page's lines; none for a page that is damaged."""
    try:
        page = document[number].get_textpage()
    except failure:
        return []
    raw = page.get_text_range()
    unit = 0  # PDFium counts in UTF-16 units, two for a character beyond the basic plane
    lines = []
    for line, hyphen in zip(LINE_END.split(raw), [*LINE_END.findall(raw), ""], strict=True):
        words = line.strip()
        if words:
            first = unit + _units(line[: line.index(words[0])])
            last = first + _units(words[:-1])
            left, bottom, _, _ = page.get_charbox(first, loose=True)
            right = page.get_charbox(last, loose=True)[2]
            end = HYPHEN if hyphen == "\ufffe" else ""
            lines.append(Line(words + end, left, right, bottom, _size(page, first)))
        unit += _units(line) + 1
    page.close()
    return lines


def _units(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def _size(page: Any, place: int) -> float:
    """The size, in points, in which a character is drawn: its font's, by the scale of what it is drawn with."""
    from pypdfium2 import raw

    matrix = raw.FS_MATRIX()
    scale = hypot(matrix.c, matrix.d) if raw.FPDFText_GetMatrix(page, place, matrix) else 1.0
    size: float = raw.FPDFText_GetFontSize(page, place)
    return round(size * scale, 1)
