"""What becomes of image files that people, cameras and attackers send."""

from __future__ import annotations

import random
import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from taskloom.core.errors import InvalidInputError
from taskloom.plugins.tasks.vision.decoding import decode_image
from taskloom.plugins.tasks.vision.image_files import MAX_BYTES, PNG_SIGNATURE, read_image_file


def picture(width: int = 24, height: int = 16, seed: int = 0) -> Image.Image:
    """Red to the left, blue at the bottom, with some noise."""
    x, y = np.meshgrid(np.linspace(255, 0, width), np.linspace(0, 255, height))
    noise = np.random.default_rng(seed).integers(0, 8, (height, width))
    return Image.fromarray(np.stack([x, noise, y], -1).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int) -> bytes:
    return png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


def png_of_size(width: int, height: int, *more: bytes) -> bytes:
    """A PNG that promises a grey picture of any size, in a few bytes."""
    header = png_header(width, height)
    body = png_chunk(b"IDAT", zlib.compress(b"\x00" * 1000))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + body + png_chunk(b"IEND", b"")


def refusal(data: bytes) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        decode_image(data)
    assert caught.value.field == "input.image"
    return caught.value


FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved(picture(), "JPEG", quality=90),
    "progressive jpeg": lambda: saved(picture(), "JPEG", progressive=True),
    "grey jpeg": lambda: saved(picture().convert("L"), "JPEG"),
    "cmyk jpeg": lambda: saved(picture().convert("CMYK"), "JPEG", quality=95),
    "png": lambda: saved(picture(), "PNG"),
    "palette png": lambda: saved(picture().quantize(32), "PNG"),
    "black and white png": lambda: saved(picture().convert("1"), "PNG"),
    "webp": lambda: saved(picture(), "WEBP", quality=90),
    "lossless webp": lambda: saved(picture(), "WEBP", lossless=True),
    "transparent webp": lambda: saved(picture().convert("RGBA"), "WEBP"),
    "animated webp": lambda: saved(picture(), "WEBP", save_all=True, append_images=[picture().rotate(180)], duration=50),
    "animated png": lambda: saved(picture(), "PNG", save_all=True, append_images=[picture().rotate(180)], duration=50),
}


@pytest.mark.parametrize("name", FILES)
def test_every_common_kind_of_file_is_read_in_rgb(name: str) -> None:
    image, size = decode_image(FILES[name]())
    assert (image.mode, image.size, size) == ("RGB", (24, 16), (24, 16))


@pytest.mark.parametrize("name", ["jpeg", "cmyk jpeg", "png", "palette png", "webp", "animated webp", "animated png"])
def test_colours_are_kept_and_animations_show_their_first_picture(name: str) -> None:
    pixels = np.asarray(decode_image(FILES[name]())[0]).astype(int)
    assert np.abs(pixels - np.asarray(picture()).astype(int))[..., [0, 2]].mean() < 16


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_data_asks(kind: str, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(picture(), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    image, size = decode_image(data)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    assert size == (24, 16)
    assert image.size == ((24, 16) if orientation < 5 else (16, 24))
    assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_sixteen_bit_greys_are_scaled_and_not_cut_off() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = np.asarray(decode_image(saved(Image.fromarray(ramp), "PNG"))[0])[..., 0]
    assert np.abs(pixels.astype(int) - (ramp >> 8)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_what_is_transparent_is_white(mode: str) -> None:
    if mode in ("RGBA", "LA"):
        data = saved(Image.new(mode, (5, 5), 0), "PNG")
    else:
        plain = Image.new("RGB", (5, 5), (9, 9, 9))
        plain = plain.quantize(4) if mode == "P" else plain.convert(mode)
        data = saved(plain, "PNG", transparency=plain.getpixel((2, 2)))
    assert decode_image(data)[0].getpixel((2, 2)) == (255, 255, 255)


# -- refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "these 0 bytes are not a JPEG, PNG or WebP file"),
        (b"hello", "not a JPEG, PNG or WebP"),
        (saved(picture(), "GIF"), "not a JPEG, PNG or WebP"),
        (saved(picture(), "BMP"), "not a JPEG, PNG or WebP"),
        (saved(picture(), "TIFF"), "not a JPEG, PNG or WebP"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * MAX_BYTES, "8388608 are allowed; send a smaller"),
        (png_of_size(10_000, 10_000), "100000000 pixels, 25000000 are allowed"),
        (png_of_size(2**31 - 1, 2**31 - 1), "25000000 are allowed"),
        (png_of_size(0, 5), "needs at least one"),
        (png_of_size(5, 2_000), "crop it"),
        (png_of_size(500, 500), "cut off or damaged"),
        (
            png_of_size(8, 8, png_chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0))),
            "header is not at the start",
        ),
        (b"\x89PNG\r\n\x1a\n", "ends in the middle"),
        (b"\xff\xd8\xff", "ends in the middle"),
        (b"\xff\xd8\xff\xd9" + b"\x00" * 9, "no picture"),
        (b"RIFF\x10\x00\x00\x00WEBP", "ends in the middle"),
    ],
    ids=range(16),
)
def test_what_can_not_be_taken_is_refused_and_said_why(data: bytes, told: str) -> None:
    assert told in str(refusal(data))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_off_is_refused(name: str) -> None:
    data = FILES[name]()
    for share in (0.3, 0.6, 0.9):
        assert "send all of it" in str(refusal(data[: int(len(data) * share)]))


def test_a_progressive_jpeg_of_endless_scans_is_refused() -> None:
    data = saved(picture(), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    assert "more than 64 scans" in str(refusal(data[:start] + data[start:-2] * 80 + data[-2:]))


def test_a_broken_checksum_is_found() -> None:
    data = bytearray(saved(picture(), "PNG"))
    data[data.index(b"IDAT") + 8] ^= 0xFF
    refusal(bytes(data))


def test_metadata_never_reaches_the_decoder() -> None:
    """A text chunk that unpacks to 100 MB, and a camera's note that is no EXIF data at all."""
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "x" * 1_000_000, zip=True)
    assert b"zTXt" not in read_image_file(saved(picture(), "PNG", pnginfo=info)).pixels
    data = saved(picture(), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff" + b"\xff" * 40, comment=b"secret")
    assert b"secret" not in read_image_file(data).pixels
    assert decode_image(data)[0].size == (24, 16)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, cut, doubled or moved."""
    content = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        at, length = chance.randrange(len(content)), chance.choice([1, 2, 4, 32])
        match chance.randrange(5):
            case 0:
                content[at] = chance.randrange(256)
            case 1:
                content[at : at + length] = chance.choice([b"\x00", b"\xff"]) * length
            case 2:
                del content[at : at + length]
            case 3:
                content[at:at] = content[at : at + length]
            case _:
                content[at:at] = chance.randbytes(length)
        if len(content) < 2:
            break
    return bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_gives_a_picture_or_a_typed_error_and_never_a_warning(name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = [FILES[name](), saved(picture(), name.rsplit(maxsplit=1)[-1].upper(), exif=exif)]
    chance = random.Random(name)
    refused = 0
    for _ in range(150):
        data = damaged(chance.choice(whole), chance)
        with warnings.catch_warnings(record=True) as told:  # as errors they would pass for refusals
            warnings.simplefilter("always")
            try:
                image, size = decode_image(data)
            except InvalidInputError:
                refused += 1
                continue
            finally:
                assert told == []
        assert image.mode == "RGB"
        assert sorted(image.size) == sorted(size)
    assert refused > 10


EMPTY_SEGMENT = b"\xff\xfe\x00\x02"


@pytest.mark.parametrize("count", [10_010, 500_000])
@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"\xff\xd8", EMPTY_SEGMENT),
        (b"\xff\xd8\xff\xfe\x00\x02", b"\xff\x01"),
        (b"\xff\xd8", b"\xff"),
        (PNG_SIGNATURE + b"\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0" + b"\0" * 4, b"\0\0\0\0IDAT" + b"\0" * 4),
        (b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + b"\0" * 10, b"EXIF\0\0\0\0"),
    ],
    ids=["jpeg segments", "jpeg markers", "jpeg fill", "png", "webp"],
)
def test_a_file_of_endless_small_parts_is_refused(start: bytes, part: bytes, count: int) -> None:
    with pytest.raises(ValueError, match="more than 10000 parts"):
        read_image_file(start + part * count)


def test_pictures_in_many_parts_are_taken() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    pixels = zlib.compress(random.Random(1).randbytes(100 * 101), 0)
    parts = [chunk(b"IDAT", pixels[at : at + 2]) for at in range(0, len(pixels), 2)]
    header = chunk(b"IHDR", (100).to_bytes(4, "big") * 2 + b"\x08\0\0\0\0")
    found = read_image_file(PNG_SIGNATURE + header + b"".join(parts) + chunk(b"IEND", b""))
    assert len(parts) > 5000
    assert (found.width, found.height) == (100, 100)
    stream = BytesIO()
    Image.effect_noise((400, 300), 90).save(stream, "JPEG", progressive=True, quality=95)
    assert (read_image_file(stream.getvalue()).width, read_image_file(stream.getvalue()).height) == (400, 300)
