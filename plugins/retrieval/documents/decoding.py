"""Bytes to text, for files that say nothing of their encoding, or the wrong thing."""

from __future__ import annotations

import codecs
import re

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
MEANT_BY = {
    **dict.fromkeys(("gb2312", "gbk", "gb_2312-80", "x-gbk"), "gb18030"),
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1", "latin-1", "ascii", "us-ascii"), "cp1252"),
    **dict.fromkeys(("utf-16", "utf-16le", "utf-16be", "utf16", "utf-32", "utf32"), "utf-8"),
    **dict.fromkeys(("big5", "big5-hkscs"), "big5hkscs"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis"), "cp932"),
}
"""What browsers read by an encoding's name (https://encoding.spec.whatwg.org): a page that says so in ASCII is no UTF-16."""
CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
NOT_ASCII = re.compile("[^\x00-\x7f]")
RUN = re.compile("[^\x00-\x7f]{2,}")
FREQUENT = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经去法学如都"
    "同现当没动面起看定天分还进好小部其些主样理心本前开但因只从想实個們這來為國說時會對過發後裡種經學現當沒動進樣開實"
)
ENOUGH_TO_COUNT = 60
LOOKED_AT = 100_000
ADVICE = "save it as UTF-8"


class Undecodable(Exception):
    """Bytes that are no text. Its message is the reason, for people."""


def decode(content: bytes, declared: str = "") -> str:
    """The text of a file: by its byte-order mark (UTF-8, UTF-16, UTF-32), else as `declared`, else as UTF-8, else as GB18030,
    the encoding of Chinese files that have none of these, if that makes sense. Raises `Undecodable`."""
    text = _decoded(content, declared)
    sample = text[:LOOKED_AT]
    if len(CONTROL.findall(sample)) * 100 > len(sample):
        raise Undecodable("it is binary, not text")
    return text


def _decoded(content: bytes, declared: str) -> str:
    for mark, encoding in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            try:
                return content[len(mark) :].decode(encoding)
            except UnicodeDecodeError as exc:
                raise Undecodable(f"it begins as {encoding.upper()}, and byte {exc.start + 1} isn't that; {ADVICE}") from exc
    if b"\x00" in content:
        raise Undecodable("it is binary, not text (UTF-16 needs its byte-order mark)")
    if declared:
        try:
            return content.decode(MEANT_BY.get(declared.strip().lower(), declared))
        except (UnicodeDecodeError, LookupError):
            pass  # what a page says of itself is often wrong
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as exc:
        failure = exc
    try:
        text = content.decode("gb18030")
    except UnicodeDecodeError:
        text = ""
    if not _is_sensible_chinese(text):
        raise Undecodable(f"byte {failure.start + 1} is neither UTF-8 nor GB18030; {ADVICE}") from failure
    return text


def _is_sensible_chinese(text: str) -> bool:
    """Whether a text that was decoded as GB18030 looks like Chinese. Latin-1 often decodes as well, into rare characters that
    stand alone between letters; Chinese is runs of common ones (those of GB 2312). So do EUC-KR and EUC-JP, into such runs, but
    hardly ever into the most frequent characters: of 60 in a row in Chinese Wikipedia, at least 6% are among these."""
    letters = NOT_ASCII.findall(text[:LOOKED_AT])
    if not letters:
        return False
    common = sum(_is_common(letter) for letter in letters)
    in_runs = sum(len(run) for run in RUN.findall(text[:LOOKED_AT]))
    frequent = sum(letter in FREQUENT for letter in letters)
    often = frequent >= 0.04 * len(letters) or len(letters) < ENOUGH_TO_COUNT
    return often and common >= 0.7 * len(letters) and in_runs >= 0.7 * len(letters)


def _is_common(letter: str) -> bool:
    """Whether GB 2312 has it, or, for traditional characters, Big5."""
    for encoding in ("gb2312", "big5"):
        try:
            letter.encode(encoding)
        except UnicodeEncodeError:
            continue
        return True
    return False
