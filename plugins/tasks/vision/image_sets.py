"""Labelled pictures on disk, in the forms that people have them in."""

from __future__ import annotations

import gzip
import hashlib
import tomllib
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from math import floor
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, ValidationError

from taskloom.core.errors import DataError
from taskloom.core.task import Example
from taskloom.core.types import Frozen
from taskloom.plugins._shared.datasets import bad_row, read_rows
from taskloom.plugins.tasks.vision.image_files import KINDS
from taskloom.plugins.tasks.vision.schema import VisionInput

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
IDX_IMAGES, IDX_LABELS = 0x0803, 0x0801
"""Magic numbers: unsigned bytes in three dimensions, and in one."""
FORMS = (
    "a folder with a folder of pictures for each label, a .jsonl file of {image, label} rows, idx files "
    "(train-images-idx3-ubyte beside train-labels-idx1-ubyte, .gz or not), or a .toml file that describes one of these"
)


@dataclass(frozen=True)
class Source:
    """A picture that has not been read into an example yet. `digest` identifies its content, whatever its place or name."""

    label: str
    digest: str
    read: Callable[[], bytes]
    path: str
    line: int

    def example(self) -> Example[VisionInput]:
        try:
            return Example(input=VisionInput(image=self.read()), target=self.label, path=self.path, line=self.line)
        except ValidationError as exc:
            problem = str(exc.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
            raise bad_row(self.path, self.line, problem) from exc


class ImageSet(Frozen):
    """A `.toml` file that says which pictures to read, and which part of them. Paths are relative to it.

    Its rows come in the order of their digests, so that the same pictures are the same data, however they were stored.
    """

    images: Path
    """A folder, a `.jsonl` file or an idx file of images."""
    labels: tuple[str, ...] = ()
    """What the numbers in an idx file of labels mean."""
    part: Literal["all", "kept", "held-out"] = "all"
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """The share of each label's pictures, those with the lowest digests, that is `held-out`; the rest are `kept`."""
    sha256: str = ""
    """Of the whole set: of the lines "digest label", sorted. Data that are not these are refused."""
    obtain: str = ""
    """How to get the files, for somebody who hasn't got them."""


def read_examples(path: Path) -> Iterator[Example[VisionInput]]:
    """The pictures of a folder or file, each as its file's bytes (pictures of idx files become PNGs); targets are strings.
    Raises `DataError` that names the file, or the line or row in it, of the first that can't be used."""
    sources = _set_sources(path) if path.suffix == ".toml" else _sources(path, ())
    empty = True
    for source in sources:
        empty = False
        yield source.example()
    if empty:
        raise DataError(f"{path} has no pictures; expected {FORMS}", path=str(path))


def _sources(path: Path, labels: tuple[str, ...]) -> Iterator[Source]:
    if path.is_dir():
        return _folder_sources(path)
    if not path.is_file():
        raise DataError(f"there is no data file or folder {path}", path=str(path))
    if path.suffix == ".jsonl":
        return _row_sources(path)
    if "idx3-ubyte" in path.name:
        return _idx_sources(path, labels)
    raise DataError(f"{path} has an unknown format; expected {FORMS}", path=str(path))


# -- described sets -------------------------------------------------------------------------------------------------------


def _set_sources(path: Path) -> Iterator[Source]:
    try:
        asked = ImageSet.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as exc:
        raise DataError(f"{path} can't be read: {exc.strerror}", path=str(path)) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise _bad_file(path, f"is not TOML: {exc}") from exc
    except ValidationError as exc:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors(include_url=False))
        raise _bad_file(path, f"can't be used: {told}. Keys: {', '.join(ImageSet.model_fields)}.") from exc
    images = path.parent / asked.images.expanduser()
    packed = images.with_name(images.name + ".gz")
    if not images.exists() and packed.exists():
        images = packed
    if not images.exists():
        how = f"\n\n{asked.obtain.strip()}" if asked.obtain else ""
        raise DataError(f"{path.name} describes pictures that are not here: {images}.{how}", path=str(images))
    found = sorted(_sources(images, asked.labels), key=lambda source: (source.digest, source.label))
    digest = hashlib.sha256("".join(f"{source.digest} {source.label}\n" for source in found).encode()).hexdigest()
    if asked.sha256 and digest != asked.sha256:
        raise DataError(
            f"{images} holds other pictures than {path.name} is about: {len(found)} with SHA-256 {digest}, expected "
            f"{asked.sha256}; get the data that it names, or remove `sha256` to use yours",
            path=str(images),
        )
    return iter(found if asked.part == "all" else _part(found, asked))


def _part(found: list[Source], asked: ImageSet) -> list[Source]:
    by_label: dict[str, list[int]] = defaultdict(list)
    for place, source in enumerate(found):
        by_label[source.label].append(place)
    held = {place for places in by_label.values() for place in places[: floor(len(places) * asked.held_out)]}
    return [source for place, source in enumerate(found) if (place in held) == (asked.part == "held-out")]


# -- folders and rows -----------------------------------------------------------------------------------------------------


def _folder_sources(folder: Path) -> Iterator[Source]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            raise _bad_file(path, f"lies beside the labels' folders; expected {FORMS}")
        for file in sorted(path.iterdir()):
            if file.name.startswith("."):
                continue
            if file.is_dir():
                raise _bad_file(file, f"is a folder in the folder of label {path.name!r}; name {path} if it holds the labels")
            if file.suffix.lower() not in SUFFIXES:
                raise _bad_file(file, f"is not {KINDS}; remove it or convert it")
            yield _file_source(path.name, file, str(file), 0)


def _row_sources(path: Path) -> Iterator[Source]:
    for row in read_rows(path, columns=("image", "label"), required=("image", "label")):
        image, label = row.values["image"], row.values["label"]
        if not isinstance(label, str) or not label.strip():
            raise row.error(f"`label` is {label!r}; expected a non-empty string")
        if not isinstance(image, str) or not (path.parent / image).is_file():
            raise row.error(f"`image` is {image!r}; expected the path of a file, relative to {path.parent}")
        yield _file_source(label, path.parent / image, row.path, row.line)


def _file_source(label: str, file: Path, path: str, line: int) -> Source:
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise _bad_file(file, f"can't be read: {exc.strerror}") from exc
    return Source(label, hashlib.sha256(content).hexdigest(), lambda: content, path, line)


def _bad_file(path: Path, problem: str) -> DataError:
    return DataError(f"{path} {problem}", path=str(path))


# -- idx ------------------------------------------------------------------------------------------------------------------


def _idx_sources(path: Path, labels: tuple[str, ...]) -> Iterator[Source]:
    images = _idx_array(path, IDX_IMAGES, 3)
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    numbers = _idx_array(beside, IDX_LABELS, 1)
    if len(images) != len(numbers):
        raise DataError(f"{path} has {len(images)} images and {beside.name} {len(numbers)} labels", path=str(path))
    names = labels or _label_names(path.parent / "labels.txt")
    for place, (pixels, number) in enumerate(zip(images, numbers, strict=True)):
        if names and number >= len(names):
            raise bad_row(str(beside), place + 1, f"label {number} is none of the {len(names)} that have names (from 0)")
        digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}:".encode() + pixels.tobytes()).hexdigest()
        label = names[number] if names else str(number)
        yield Source(label, digest, partial(_as_png, pixels), str(path), place + 1)


def _idx_array(path: Path, magic: int, dimensions: int) -> NDArray[np.uint8]:
    """An array of bytes as http://yann.lecun.com/exdb/mnist describes it, in big-endian order, gzipped or not."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as exc:
        raise _bad_file(path, f"can't be read: {exc}") from exc
    header = 4 * (dimensions + 1)
    if len(content) < header or int.from_bytes(content[:4], "big") != magic:
        raise _bad_file(path, f"is no idx file of bytes in {dimensions} dimension{'s' if dimensions > 1 else ''}")
    shape = tuple(int.from_bytes(content[4 * i : 4 * i + 4], "big") for i in range(1, dimensions + 1))
    if len(content) - header != np.prod(shape, dtype=np.int64):
        raise _bad_file(path, f"has {len(content) - header} bytes where its header tells {' x '.join(map(str, shape))}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _label_names(path: Path) -> tuple[str, ...]:
    """One a line; none if there is no such file."""
    text = path.read_text(encoding="utf-8").removesuffix("\n") if path.is_file() else ""
    return tuple(text.split("\n")) if text else ()


def _as_png(pixels: NDArray[np.uint8]) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()
