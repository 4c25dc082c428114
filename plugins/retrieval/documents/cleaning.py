"""Text as it is kept: one form for what looks the same, and nothing that nobody sees."""

from __future__ import annotations

import re
import unicodedata

from taskloom.core.knowledge import Document

LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
SOFT_HYPHEN = re.compile("\u00ad(?:[^\\S\n]?\n[^\\S\n]*(?=\\w))?")
"""A soft hyphen; at the end of a line it holds the halves of one word together."""
UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\u180e\u200b\u2060-\u2064\u202a-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\ufffe\uffff\U000e0001]"
)
"""Control characters, blanks without width, byte-order marks, and marks that turn the direction of writing around. Joiners
(U+200C, U+200D) stay: emoji and Persian need them."""
BLANK = re.compile("[^\\S\n ]")
"""A tab, and blanks of any width: U+00A0, U+2000 to U+200A, U+202F, U+3000 and the like."""
SURROGATE = re.compile("[\ud800-\udfff]")
INNER_BLANKS = re.compile(r"(?<=[^ \n]) {2,}")
INDENTATION = re.compile(r"^ {33,}", re.MULTILINE)
DEEPEST = " " * 32
PARAGRAPH = re.compile(r"\n{3,}")


def clean(text: str) -> str:
    """The text that is split, stored and answered from; cleaning it again changes nothing.

    Unicode is brought to form NFC, not NFKC: full-width letters, ligatures and superscripts stay what they are. Lines end in
    a line feed, without blanks before it; a paragraph ends in two. Blanks of any width become plain ones, and several inside
    a line become one; the indentation of lines is kept, up to 32. Control characters, soft hyphens, zero-width blanks and
    direction overrides go; half a surrogate pair becomes U+FFFD.

    >>> clean("Cafe\\u0301\\u00a0 ＡＢＣ\\r\\n\\r\\n\\r\\n\\u3000第二\\u00ad段\\x00")
    'Café ＡＢＣ\\n\\n 第二段'
    """
    text = LINE_ENDS.sub("\n", text)
    text = BLANK.sub(" ", text)
    text = UNSEEN.sub("", text)
    text = SOFT_HYPHEN.sub("", text)
    text = SURROGATE.sub("\ufffd", text)
    text = unicodedata.normalize("NFC", text)
    text = INNER_BLANKS.sub(" ", text)
    text = "\n".join([line.rstrip(" ") for line in text.split("\n")])
    text = INDENTATION.sub(DEEPEST, text)
    return PARAGRAPH.sub("\n\n", text).strip("\n").rstrip(" ")


def clean_line(text: str) -> str:
    """A title, a heading, a question: cleaned, on one line.

    >>> clean_line("  How do I\\n reset it? ")
    'How do I reset it?'
    """
    return " ".join(clean(text).split())


def clean_document(document: Document) -> Document:
    """The document with its text, title and question cleaned. Passages are made of this one: offsets are into its text."""
    changed = {"text": clean(document.text), "title": clean_line(document.title), "question": clean_line(document.question)}
    return document.model_copy(update={name: value for name, value in changed.items() if value != getattr(document, name)})
