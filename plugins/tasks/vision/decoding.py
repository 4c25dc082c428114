"""From an image file to pixels, with Pillow, for files from strangers."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from taskloom.core.errors import InvalidInputError
from taskloom.plugins.tasks.vision.image_files import ImageFile, read_image_file

FIELD = "input.image"
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What shows a picture of each EXIF orientation the right way up."""
PAPER = (255, 255, 255, 255)
"""What is seen through transparent pixels."""


def decode_image(data: bytes) -> tuple[Image.Image, tuple[int, int]]:
    """The picture in RGB, turned as its EXIF data asks, and its stored (width, height).

    Transparent pixels are laid on white, 16-bit greys are brought to 8 bits, and of an animation the first picture is taken.
    Raises `InvalidInputError` for a file that is no image, is damaged, or is larger than the limits of `image_files`.
    """
    try:
        file = read_image_file(data)
    except ValueError as exc:
        raise InvalidInputError(str(exc), field=FIELD) from exc
    try:
        image = _opened(file)
        turn = TURNS.get(file.orientation)
        upright = image.transpose(turn) if turn is not None else image
        return _in_rgb(upright), (file.width, file.height)
    except Exception as exc:  # Pillow raises a dozen kinds, SyntaxError and struct.error among them, for hostile files
        raise InvalidInputError(
            f"the {file.kind} file can't be decoded: it is cut off or damaged ({type(exc).__name__}); send all of it, or save "
            "the picture anew",
            field=FIELD,
        ) from exc


def _opened(file: ImageFile) -> Image.Image:
    """The decoded first picture. `formats` keeps every other decoder of Pillow's out; `verify` checks the checksums of a PNG
    before anything is unpacked."""
    with Image.open(BytesIO(file.pixels), formats=[file.kind]) as checked:
        if checked.size != (file.width, file.height):
            raise ValueError("the decoder sees another size than the header tells")
        checked.verify()
    image = Image.open(BytesIO(file.pixels), formats=[file.kind])
    image.load()
    return image


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, PAPER)
        image = Image.alpha_composite(paper, image)
    return image if image.mode == "RGB" else image.convert("RGB")
