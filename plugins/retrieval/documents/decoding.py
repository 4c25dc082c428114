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
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1", "latin-1"), "cp1252"),
    **dict.fromkeys(("utf-16", "utf-16le", "utf-16be", "utf16", "utf-32", "utf32"), "utf-8"),
    **dict.fromkeys(("big5", "big5-hkscs"), "big5hkscs"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis"), "cp932"),
}
"""What browsers read by an encoding's name (https://encoding.spec.whatwg.org): a page that says so in ASCII is no UTF-16."""
CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
NOT_ASCII = re.compile("[^\x00-\x7f]")
RUN = re.compile("[^\x00-\x7f]{2,}")
HANGUL = re.compile("[\uac00-\ud7a3]")
ENOUGH_TO_TELL = 60
KANA = re.compile("[\u3041-\u30ff]")
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
        meant = MEANT_BY.get(declared.strip().lower(), declared)
        for encoding in (meant, "latin-1") if meant == "cp1252" else (meant,):  # Python's cp1252 has gaps
            try:
                return content.decode(encoding)
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
    if not _is_sensible_chinese(text) or _is_of_a_neighbour(content[:LOOKED_AT]):
        raise Undecodable(f"byte {failure.start + 1} is neither UTF-8 nor GB18030; {ADVICE}") from failure
    return text


def _is_sensible_chinese(text: str) -> bool:
    """Whether a text that was decoded as GB18030 looks like Chinese. Latin-1 often decodes as well, into rare characters that
    stand alone between letters; Chinese is runs of common ones (those of GB 2312)."""
    letters = NOT_ASCII.findall(text[:LOOKED_AT])
    if not letters:
        return False
    common = sum(_is_common(letter) for letter in letters)
    in_runs = sum(len(run) for run in RUN.findall(text[:LOOKED_AT]))
    return common >= 0.7 * len(letters) and in_runs >= 0.7 * len(letters)


def _is_of_a_neighbour(content: bytes) -> bool:
    """Whether it is Korean or Japanese: their EUC encodings decode as GB18030 too, into runs of common characters. Chinese that
    is read as one of them has less Hangul, and hardly any kana; of a few characters nobody could say."""
    for encoding, own, share in (("euc-kr", HANGUL, 0.85), ("euc-jp", KANA, 0.2)):
        letters = NOT_ASCII.findall(content.decode(encoding, errors="ignore"))
        if len(letters) >= ENOUGH_TO_TELL and sum(bool(own.match(letter)) for letter in letters) >= share * len(letters):
            return True
    return False


def _is_common(letter: str) -> bool:
    """Whether GB 2312 has it, or, for traditional characters, Big5."""
    for encoding in ("gb2312", "big5"):
        try:
            letter.encode(encoding)
        except UnicodeEncodeError:
            continue
        return True
    return False
