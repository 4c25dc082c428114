"""HTML to text: what a reader of the page came for, with its headings, lists, tables and code marked as Markdown marks them.

The tree is lxml's (libxml2); it is walked with a stack of its own, so that its depth costs no recursion."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from taskloom.plugins._shared.sentences import WIDE_LETTER
from taskloom.plugins.retrieval.documents.decoding import decode

CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s{0,5}=\s{0,5}[\"']?\s{0,5}([A-Za-z0-9_-]{2,20})", re.IGNORECASE)


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


PASSED_OVER = _names(
    """
    script style noscript template svg math canvas iframe object embed audio video map head nav aside footer button select
    textarea input dialog datalist
    """
)
ROLES = frozenset(
    {"navigation", "banner", "contentinfo", "search", "dialog", "alertdialog", "complementary", "menu", "menubar"}
)
BANNER = re.compile(
    r"cookie[-_ ]?(?:banner|bar|box|consent|dialog|info|law|layer|message|modal|notice|overlay|popup|wall)|onetrust|cookiebot"
    r"|(?:consent|gdpr|privacy)[-_ ]?(?:banner|bar|box|dialog|manager|modal|notice|overlay|popup|wall)|breadcrumb|skip-?link",
    re.IGNORECASE,
)
HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
BLOCKS = _names(
    """
    address article blockquote body center dd details div dl dt fieldset figcaption figure form header hgroup hr html legend li
    main menu ol p pre search section summary table tbody td tfoot th thead tr ul caption h1 h2 h3 h4 h5 h6
    """
)
WRAPPED_WIDE = re.compile(f"(?<=[{WIDE_LETTER}])[ \t]{{0,80}}\n[ \t]{{0,80}}(?=[{WIDE_LETTER}])")
"""A line that was broken between Chinese characters: no blank belongs there."""
HEADINGS = {f"h{level}": level for level in range(1, 7)}
NO_DATA = frozenset({"table", "p", "div", "ul", "ol", "pre", "blockquote", *HEADINGS})
"""What no cell of a table of data has: a table with one of these lays out a page."""


class Unreadable(Exception):
    """A document that can't be read. Its message is the reason, for people."""


def read_html(content: bytes) -> dict[str, str]:
    """`text`, `title` and `language` of a page. Raises `Unreadable` and `Undecodable`."""
    from lxml import etree

    declared = CHARSET.search(content[:4096])
    text = decode(content, declared[1].decode("ascii") if declared else "").replace("\x00", "")
    if not text.strip():
        return {"text": "", "title": "", "language": ""}
    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True, huge_tree=True)
    try:
        root = etree.fromstring(text.encode("utf-8", "replace"), parser)
    except etree.LxmlError as exc:
        reason = "libxml2 can't read it, for want of memory or for what it is"
        raise Unreadable(f"{reason}: {str(exc)[:200]}") from exc
    if any("depth" in entry.message for entry in parser.error_log):
        raise Unreadable("its elements are nested more than 2048 deep")
    if root is None:
        return {"text": "", "title": "", "language": ""}
    title = root.find(".//head/title")
    heading = root.find(".//h1")
    named = next((part for part in (title, heading) if part is not None and "".join(part.itertext()).strip()), None)
    return {
        "text": _text_of(_content(root)),
        "title": " ".join("".join(named.itertext()).split()) if named is not None else "",
        "language": (root.get("lang") or "").strip().lower().replace("_", "-").split("-")[0][:2],
    }


def _content(root: Any) -> Any:
    """The part that a page says is its content, if there is one such part and it says something; else all of it."""
    for path in (".//main", ".//*[@role='main']", ".//article"):
        found = root.findall(path)
        if len(found) == 1 and len("".join(found[0].itertext()).strip()) >= 200:
            return found[0]
    body = root.find(".//body")
    return root if body is None else body


class _Writer:
    """Puts blocks of text together: `inline` what is on the way, `parts` what is done."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.inline: list[str] = []
        self.prefix = ""

    def add(self, text: str | None) -> None:
        if text:
            self.inline.append(text)

    def close(self, separator: str = "\n\n") -> None:
        """Ends the block, if there is any text in it."""
        lines = [" ".join(WRAPPED_WIDE.sub("", line).split()) for line in "".join(self.inline).split("\v")]
        words = "\n".join(line for line in lines if line)
        self.inline.clear()
        if words:
            self.parts.append(self.prefix + words + separator)
            self.prefix = ""

    def verbatim(self, text: str) -> None:
        self.close()
        if text.strip():
            self.parts.append(text.strip("\n") + "\n\n")


def _text_of(root: Any) -> str:
    writer = _Writer()
    for what, element in _walk(root, writer):
        tag = element.tag
        if what == "leave":
            if tag in BLOCKS:
                writer.close("\n" if tag in ("li", "dt", "dd") else "\n\n")
                writer.prefix = ""
                if tag in ("ul", "ol", "dl"):
                    writer.parts.append("\n")
            continue
        if tag == "br":
            writer.add("\v")
        elif tag in BLOCKS:
            writer.close("\n" if tag in ("ul", "ol", "dl") else "\n\n")
            if tag in HEADINGS:
                writer.prefix = "#" * HEADINGS[tag] + " "
            elif tag == "li":
                writer.prefix = "- "
        writer.add(element.text)
    writer.close()
    return "".join(writer.parts)


def _walk(root: Any, writer: _Writer) -> Iterator[tuple[str, Any]]:
    """`enter` and `leave` of each element that is content, in order. Tables and code are written as they are met; what stands
    behind an element is added when it has been left."""
    stack = [(root, iter(root))]
    yield "enter", root
    while stack:
        element, children = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            yield "leave", element
            if stack:
                writer.add(element.tail)
        elif not isinstance(child.tag, str) or _is_passed_over(child):
            writer.add(child.tail)
        elif child.tag == "pre":
            content = "".join(child.itertext())
            fence = "~~~" if "```" in content else "```"
            writer.verbatim(f"{fence}\n{content.strip(chr(10))}\n{fence}" if content.strip() else "")
            writer.add(child.tail)
        elif child.tag == "table" and _is_data(child):
            writer.verbatim(_rows_of(child))
            writer.add(child.tail)
        else:
            stack.append((child, iter(child)))
            yield "enter", child


def _is_passed_over(element: Any) -> bool:
    if element.tag in PASSED_OVER or (element.get("role") or "").lower() in ROLES:
        return True
    if element.get("hidden") is not None or HIDDEN.search((element.get("style") or "")[:500]):
        return True
    if element.tag == "header":
        return element.find(".//h1") is None and element.getparent() is not None and element.getparent().tag == "body"
    marks = f"{element.get('id') or ''} {element.get('class') or ''}"[:500]
    return element.tag in BLOCKS | {"a", "span"} and BANNER.search(marks) is not None


def _is_data(table: Any) -> bool:
    return next(table.iterdescendants(*NO_DATA), None) is None


def _rows_of(table: Any) -> str:
    """The rows of a table, a line each, with a rule below the first: the header."""
    rows = [[_cell(cell) for cell in row if cell.tag in ("td", "th")] for row in table.iter("tr")]
    rows = [row for row in rows if any(row)]
    caption = table.find("caption")
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if len(lines) > 1:
        lines.insert(1, "|" + " --- |" * len(rows[0]))
    above = _cell(caption) + "\n\n" if caption is not None else ""
    return above + "\n".join(lines)


def _cell(element: Any) -> str:
    return " ".join("".join(element.itertext()).split()).replace("|", "\\|")
