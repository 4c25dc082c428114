"""Markdown to text: headings, lists, tables and code stay marked; emphasis, links and comments become the words they are of.

The structure is markdown-it-py's (CommonMark with tables)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from taskloom.plugins._shared.sentences import WIDE_LETTER
from taskloom.plugins.retrieval.documents.decoding import decode

if TYPE_CHECKING:
    from markdown_it.token import Token

FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.{0,20000}?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
FIELD = re.compile(r"([A-Za-z_][\w-]{0,60}):[ \t]*(.*)")
TAG = re.compile(r"<!--.*?-->|<[^<>]{0,2000}>", re.DOTALL)
WRAPPED_WIDE = re.compile(f"(?<=[{WIDE_LETTER}])\v(?=[{WIDE_LETTER}])")
"""A line that was broken between Chinese characters: no blank belongs there."""
BREAKING = frozenset({"bullet_list_close", "ordered_list_close"})


def read_markdown(content: bytes) -> dict[str, str]:
    """`text`, `title` and `language`. The title is that of the front matter, else the first heading of the first level, or
    what it begins with.    Raises `Undecodable`."""
    from markdown_it import MarkdownIt

    source = decode(content).replace("\r\n", "\n").replace("\r", "\n")
    front = FRONT_MATTER.match(source)
    fields: dict[str, str] = dict(FIELD.findall(front[1])) if front else {}
    if fields and front:
        source = source[front.end() :]
    tokens = MarkdownIt("commonmark").enable("table").parse(source)
    return {
        "text": _text_of(tokens, source.split("\n")),
        "title": fields.get("title", "").strip(" \t\"'") or _first_heading(tokens),
        "language": fields.get("lang", fields.get("language", "")).strip(" \t\"'")[:2].lower(),
    }


def _first_heading(tokens: Sequence[Token]) -> str:
    """The first heading of the first level; where there is none, the heading that the text begins with."""
    headings = [(token.tag, place) for place, token in enumerate(tokens) if token.type == "heading_open"]
    first = next((place for tag, place in headings if tag == "h1"), 0 if headings[:1] and headings[0][1] == 0 else None)
    return "" if first is None else _words_of(tokens[first + 1])


def _text_of(tokens: Sequence[Token], lines: Sequence[str]) -> str:
    parts: list[str] = []
    prefix = ""
    depth = 0
    inside_table = False
    for token in tokens:
        if token.type in ("bullet_list_open", "ordered_list_open"):
            depth += 1
        elif token.type in BREAKING:
            depth -= 1
            parts.append("" if depth else "\n")
        elif token.type == "list_item_open":
            prefix = "  " * (depth - 1) + (f"{token.info}. " if token.info else "- ")
        elif token.type == "heading_open":
            prefix = "#" * int(token.tag[1:]) + " "
        elif token.type in ("fence", "code_block"):
            fence = "~~~~" if "```" in token.content else "```"
            parts.append((f"{prefix.rstrip()}\n" if prefix else "") + f"{fence}\n{token.content.strip(chr(10))}\n{fence}\n\n")
            prefix = ""
        elif token.type == "html_block":
            words = TAG.sub(" ", token.content).strip()
            parts.append(f"{words}\n\n" if words else "")
        elif token.type == "table_open":
            inside_table = True
            if token.map:
                parts.append("\n".join(_row(line) for line in lines[token.map[0] : token.map[1]]) + "\n\n")
        elif token.type == "table_close":
            inside_table = False
        elif token.type == "inline" and not inside_table:
            words = _words_of(token)
            if words:
                parts.append(f"{prefix}{words}" + ("\n" if depth else "\n\n"))
            prefix = ""
    return "".join(parts)


def _row(line: str) -> str:
    cells = line.strip("> \t")
    return cells if cells.startswith("|") else f"| {cells} |"


def _words_of(inline: Token) -> str:
    """What a reader sees of a paragraph: a picture is its description."""
    words = []
    for token in inline.children or []:
        if token.type == "softbreak":
            words.append("\v")
        elif token.type == "hardbreak":
            words.append("\n")
        elif token.type == "image":
            words.append(token.content)
        elif token.type == "html_inline":
            words.append("\n" if token.content.lower().startswith("<br") else "")
        else:
            words.append(token.content)
    return WRAPPED_WIDE.sub("", "".join(words)).replace("\v", " ").strip()
