"""Small PDFs, written by hand: lines of Latin text in Helvetica, of Chinese in STSong; an empty line leaves a gap."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

LARGE = "# "
"""What a line begins with that is set larger than the rest."""


def pdf_bytes(pages: Sequence[Sequence[str]], *, trailer: str = "", title: str = "") -> bytes:
    kids = b" ".join(b"%d 0 R" % (7 + 2 * i) for i in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light /Encoding /UniGB-UCS2-H /DescendantFonts [5 0 R] >>",
        b"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light /FontDescriptor << /Type /FontDescriptor /FontName"
        b" /STSong-Light /Flags 6 /FontBBox [0 0 1000 1000] /ItalicAngle 0 /Ascent 800 /Descent -200 /CapHeight 700"
        b" /StemV 80 >> /CIDSystemInfo << /Registry (Adobe) /Ordering (GB1) /Supplement 2 >> >>",
        b"<< /Title (%s) >>" % title.encode(),
    ]
    for i, lines in enumerate(pages):
        page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R /F2 4 0 R >> >>"
        objects += [page + b" /Contents %d 0 R >>" % (8 + 2 * i), stream(content(lines))]
    return _file(objects, trailer)


def content(lines: Sequence[str]) -> bytes:
    drawn = [b"BT 14 TL 72 720 Td"]
    for line in lines:
        size = 18 if line.startswith(LARGE) else 12
        words = line.removeprefix(LARGE)
        if words.isascii():
            escaped = words.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
            drawn.append(b"/F1 %d Tf (%s) Tj T*" % (size, escaped.encode()))
        else:
            drawn.append(b"/F2 %d Tf <%s> Tj T*" % (size, words.encode("utf-16-be").hex().encode()))
    return b"\n".join([*drawn, b"ET"])


def stream(data: bytes, times: int = 1) -> bytes:
    """A stream object, compressed so many times."""
    for _ in range(times):
        data = zlib.compress(data, 9)
    return b"<< /Length %d /Filter [%s] >>\nstream\n%s\nendstream" % (len(data), b" /FlateDecode" * times, data)


def bomb(megabytes: int) -> bytes:
    """A page whose text is so many megabytes of one operator, compressed three times into very little."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Resources << /Font << /F1 5 0 R >> >> /Contents 4 0 R >>",
        stream(b"BT /F1 1 Tf " + b"(aaaaaaaa) Tj " * (megabytes * 75_000) + b"ET", times=3),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    return _file(objects, "")


def _file(objects: Sequence[bytes], trailer: str) -> bytes:
    out = b"%PDF-1.4\n"
    offsets = []
    for number, content_of in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content_of)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"trailer\n<< /Size %d /Root 1 0 R /Info 6 0 R %s >>" % (len(objects) + 1, trailer.encode())
    return out + b"xref\n0 %d\n0000000000 65535 f \n%s%s\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, table, end, len(out))
