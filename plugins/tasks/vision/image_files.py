"""What an image file says of itself before a pixel of it is decoded, and the part of it that holds pixels.

Files come from strangers. Their containers are walked here, in plain Python, so that a gateway can refuse what is too large
without an image library, and so that the decoder never sees what it has no need of: metadata, comments, colour profiles,
embedded previews, the later pictures of an animated PNG.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

MAX_BYTES = 8 * 1024 * 1024
"""Of the file."""
MAX_PIXELS = 25_000_000
"""Width times height: a photograph of 24 megapixels."""
MAX_ASPECT = 100
"""Long side over short side. A strip that is resized by its short side would become as large as one likes."""
MAX_SCANS = 64
"""Of a progressive JPEG, which has about ten. Each is a pass over all pixels, however few bytes it takes."""
MAX_PARTS = 10_000
"""Segments of a JPEG up to its first scan, chunks of a PNG or WebP file: a PNG of `MAX_BYTES` in pieces of 8 KB, which is
what many programs write, has 1024. Walking one takes about a microsecond, and each request walks its file twice."""

Kind = Literal["JPEG", "PNG", "WEBP"]
KINDS = "a JPEG, PNG or WebP file"

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a length."""
JPEG_SCAN, JPEG_END, JPEG_EXIF = 0xDA, 0xD9, 0xE1
JPEG_COMMENTS = frozenset({*range(0xE0, 0xF0), 0xFE})
JPEG_COLOUR = (b"JFIF\x00", b"Adobe")
"""The application segments that say how colours are stored."""
EXIF_START = b"Exif\x00\x00"
EXIF_ORIENTATION = 0x0112
ENDS_EARLY = "the file ends in the middle; send all of it"


@dataclass(frozen=True)
class ImageFile:
    """`width` and `height` are the stored ones, in pixels; `orientation` is EXIF's, from 1 (as stored) to 8. `pixels` is the
    file without what isn't needed to decode its first picture."""

    kind: Kind
    width: int
    height: int
    orientation: int
    pixels: bytes


def read_image_file(data: bytes) -> ImageFile:
    """Walks a file's container; raises `ValueError` for one that is none, is damaged, or is larger than the limits."""
    if len(data) > MAX_BYTES:
        raise ValueError(
            f"the file has {len(data)} bytes, {MAX_BYTES} are allowed; send a smaller picture (models look at a few hundred "
            "pixels a side)"
        )
    if data.startswith(PNG_SIGNATURE):
        found = _read_png(data)
    elif data.startswith(b"\xff\xd8\xff"):
        found = _read_jpeg(data)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        found = _read_webp(data)
    else:
        raise ValueError(f"these {len(data)} bytes are not {KINDS}; convert the picture to one of these")
    check_size(found.width, found.height)
    return found


def check_size(width: int, height: int) -> None:
    """Raises `ValueError` for a picture of no pixels, too many, or too narrow a shape."""
    if width < 1 or height < 1:
        raise ValueError(f"the picture is {width} x {height} pixels; it needs at least one")
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"the picture is {width} x {height} = {width * height} pixels, {MAX_PIXELS} are allowed; send a smaller one"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"the picture is {width} x {height} pixels; one side may be at most {MAX_ASPECT} times the other: crop it"
        )


def _one_more(parts: int) -> int:
    if parts == MAX_PARTS:
        raise ValueError(f"the file has more than {MAX_PARTS} parts, which no picture needs; save the picture anew")
    return parts + 1


# -- PNG ------------------------------------------------------------------------------------------------------------------


def _read_png(data: bytes) -> ImageFile:
    size: tuple[int, int] | None = None
    orientation = 1
    kept = [PNG_SIGNATURE]
    for kind, start, end in _png_chunks(data):
        if (kind == b"IHDR") != (size is None):
            raise ValueError("the PNG file is damaged: its header is not at the start, once; save the picture anew")
        if kind == b"IHDR":
            if end - start != 13:
                raise ValueError("the PNG file is damaged: its header has a wrong length; save the picture anew")
            size = struct.unpack(">II", data[start : start + 8])
        elif kind == b"eXIf":
            orientation = exif_orientation(data[start:end])
        if kind in PNG_PIXELS:
            kept.append(data[start - 8 : end + 4])
    if size is None:
        raise ValueError(ENDS_EARLY)
    return ImageFile("PNG", *size, orientation, b"".join(kept))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of each chunk's content, up to the end mark."""
    at, parts = len(PNG_SIGNATURE), 0
    while at + 12 <= len(data):
        parts = _one_more(parts)
        length = int.from_bytes(data[at : at + 4], "big")
        kind, start = data[at + 4 : at + 8], at + 8
        if start + length + 4 > len(data):
            break
        yield kind, start, start + length
        if kind == b"IEND":
            return
        at = start + length + 4
    raise ValueError(ENDS_EARLY)


# -- JPEG -----------------------------------------------------------------------------------------------------------------


def _read_jpeg(data: bytes) -> ImageFile:
    size: tuple[int, int] | None = None
    orientation = 1
    kept = [data[:2]]
    for marker, start, end in _jpeg_segments(data):
        content = data[start:end]
        if marker in JPEG_FRAMES:
            if size is not None or len(content) < 6:
                raise ValueError("the JPEG file is damaged: its frame is not described once; save the picture anew")
            height, width = struct.unpack(">HH", content[1:5])
            size = (width, height)
        elif marker == JPEG_EXIF and content.startswith(EXIF_START):
            orientation = exif_orientation(content[len(EXIF_START) :])
        if marker == JPEG_SCAN:
            if data.count(b"\xff\xda", start - 4) > MAX_SCANS:
                raise ValueError(f"the JPEG file has more than {MAX_SCANS} scans; save it with fewer, or as a baseline JPEG")
            kept.append(data[start - 4 :])
        elif marker not in JPEG_COMMENTS or content.startswith(JPEG_COLOUR):
            kept.append(data[start - 4 : end])
    if size is None:
        raise ValueError("the JPEG file is damaged: it has no frame; save the picture anew")
    return ImageFile("JPEG", *size, orientation, b"".join(kept))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment's content, up to the first scan."""
    at, parts = 2, 0
    while at + 4 <= len(data):
        parts = _one_more(parts)
        if data[at] != 0xFF:
            raise ValueError("the JPEG file is damaged: a segment doesn't begin with a marker; save the picture anew")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in JPEG_BARE:
            at += 2
            continue
        if marker == JPEG_END:
            raise ValueError("the JPEG file has no picture")
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2:
            raise ValueError("the JPEG file is damaged: a segment has no length; save the picture anew")
        end = at + 2 + length
        if end > len(data):
            break
        yield marker, at + 4, end
        if marker == JPEG_SCAN:
            return
        at = end
    raise ValueError(ENDS_EARLY)


# -- WebP -----------------------------------------------------------------------------------------------------------------


def _read_webp(data: bytes) -> ImageFile:
    size: tuple[int, int] | None = None
    orientation = 1
    at, parts = 12, 0
    while at + 8 <= len(data):
        parts = _one_more(parts)
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        content = data[at + 8 : at + 8 + min(length, 1 << 16)]
        if size is None:
            size = _webp_size(kind, content)
        if kind == b"EXIF":
            orientation = exif_orientation(content.removeprefix(EXIF_START))
        at += 8 + length + length % 2
    if size is None or at - 1 > len(data):
        raise ValueError(ENDS_EARLY)
    return ImageFile("WEBP", *size, orientation, data)


def _webp_size(kind: bytes, content: bytes) -> tuple[int, int]:
    """The size that a WebP file's first chunk tells (RFC 9649, sections 2.5 to 2.7)."""
    if len(content) < (5 if kind == b"VP8L" else 10):
        raise ValueError(ENDS_EARLY)
    if kind == b"VP8X":
        return int.from_bytes(content[4:7], "little") + 1, int.from_bytes(content[7:10], "little") + 1
    if kind == b"VP8 " and content[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", content[6:10])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and content[0] == 0x2F:
        bits = int.from_bytes(content[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise ValueError("the WebP file is damaged: it doesn't begin with a picture; save the picture anew")


# -- EXIF -----------------------------------------------------------------------------------------------------------------


def exif_orientation(tiff: bytes) -> int:
    """How a picture is to be turned (EXIF 2.32, tag 0x0112), from 1 to 8; 1 where the data tells nothing usable."""
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (at,) = struct.unpack(order + "I", tiff[4:8])
    if at + 2 > len(tiff):
        return 1
    (entries,) = struct.unpack(order + "H", tiff[at : at + 2])
    for start in range(at + 2, min(at + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, kind, count, value = struct.unpack(order + "HHIH", tiff[start : start + 10])
        if (tag, kind, count) == (EXIF_ORIENTATION, 3, 1):
            return value if 1 <= value <= 8 else 1
    return 1
