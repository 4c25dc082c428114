"""Labelled pictures on disk, in each form that they may have."""

from __future__ import annotations

import gzip
import json
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vision_pictures import shade

from taskloom.core.errors import DataError
from taskloom.plugins.tasks.vision.image_sets import read_examples

SAMPLE = Path(__file__).parents[2] / "data" / "fashion-mnist-sample" / "rows.jsonl"


def write_idx(folder: Path, pixels: np.ndarray, labels: list[int], packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "train-images-idx3-ubyte": struct.pack(">4I", 0x0803, *pixels.shape) + pixels.tobytes(),
        "train-labels-idx1-ubyte": struct.pack(">2I", 0x0801, len(labels)) + bytes(labels),
    }
    for name, content in parts.items():
        path = folder / (name + ".gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder / ("train-images-idx3-ubyte.gz" if packed else "train-images-idx3-ubyte")


def clothes(count: int = 40, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 6, 5), dtype=np.uint8), [i % 4 for i in range(count)]


def write_folders(folder: Path) -> Path:
    for label in ("dark", "红"):
        (folder / label).mkdir(parents=True)
        for i in range(3):
            (folder / label / f"{i}.PNG").write_bytes(shade(label, i))
    (folder / ".DS_Store").write_bytes(b"x")
    return folder


def refusal(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        list(read_examples(path))
    return caught.value


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_keep_every_pixel(tmp_path: Path, packed: bool) -> None:
    pixels, labels = clothes()
    rows = list(read_examples(write_idx(tmp_path, pixels, labels, packed)))
    assert [row.target for row in rows] == [str(label) for label in labels]
    assert [row.line for row in rows] == list(range(1, 41))
    read = [np.asarray(Image.open(BytesIO(row.input.image))) for row in rows]
    assert np.array_equal(np.stack(read), pixels)


def test_labels_of_idx_files_have_names_where_a_list_lies_beside(tmp_path: Path) -> None:
    path = write_idx(tmp_path, *clothes())
    for names in ("shirt\nbag\nboot\ncoat\n", "shirt\nbag\nboot\ncoat"):
        (tmp_path / "labels.txt").write_text(names)
        assert [row.target for row in read_examples(path)][:5] == ["shirt", "bag", "boot", "coat", "shirt"]
    (tmp_path / "labels.txt").write_text("shirt\nbag\n")
    assert "line 3: label 2 is none of the 2" in str(refusal(path))


def test_idx_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write_idx(tmp_path, *clothes())
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert "1199 bytes where its header tells 40 x 6 x 5" in str(refusal(path))
    path.write_bytes(b"hello")
    assert "no idx file of bytes in 3 dimensions" in str(refusal(path))
    path.write_bytes(whole)
    write_idx(tmp_path / "other", clothes()[0], [0] * 39)
    (tmp_path / "other" / "train-labels-idx1-ubyte").replace(tmp_path / "train-labels-idx1-ubyte")
    assert "40 images" in str(refusal(path))
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    assert "train-labels-idx1-ubyte can't be read" in str(refusal(path))


def test_a_folder_for_each_label(tmp_path: Path) -> None:
    rows = list(read_examples(write_folders(tmp_path / "train")))
    assert [row.target for row in rows] == ["dark"] * 3 + ["红"] * 3
    assert rows[0].path.endswith("train/dark/0.PNG")


def test_strange_files_in_folders_are_named(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / "train")
    assert f"name {folder}" in str(refusal(tmp_path))
    (folder / "dark" / "notes.txt").write_text("x")
    assert "notes.txt is not a JPEG" in str(refusal(folder))
    (folder / "dark" / "notes.txt").rename(folder / "dark" / "notes.jpg")
    found = refusal(folder)
    assert "not a JPEG, PNG or WebP file" in str(found)
    assert found.path.endswith("notes.jpg")
    (folder / "dark" / "notes.jpg").rename(folder / "stray.png")
    assert "stray.png lies beside the labels' folders" in str(refusal(folder))


def test_rows_name_files_beside_them(tmp_path: Path) -> None:
    rows = list(read_examples(SAMPLE))
    assert len(rows) == 20
    assert len({row.target for row in rows}) == 10
    (tmp_path / "a.png").write_bytes(shade("dark", 0))
    for row, told in [
        ({"image": "b.png", "label": "x"}, "`image` is 'b.png'; expected the path of a file"),
        ({"image": 3, "label": "x"}, "`image` is 3"),
        ({"image": "a.png", "label": ""}, "`label` is ''"),
        ({"image": "a.png"}, "'label' is missing"),
        ({"image": "a.png", "label": "x", "text": "y"}, "unknown field 'text'"),
    ]:
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps({"image": "a.png", "label": "ok"}) + "\n" + json.dumps(row) + "\n")
        found = refusal(path)
        assert told in str(found)
        assert found.line == 2


def test_other_files_are_refused_with_what_is_expected(tmp_path: Path) -> None:
    assert "there is no data file or folder" in str(refusal(tmp_path / "gone"))
    (tmp_path / "x.zip").write_bytes(b"")
    assert "unknown format; expected a folder" in str(refusal(tmp_path / "x.zip"))
    (tmp_path / "empty").mkdir()
    assert "has no pictures" in str(refusal(tmp_path / "empty"))


# -- described sets -------------------------------------------------------------------------------------------------------

SET = 'images = "idx/train-images-idx3-ubyte"\nlabels = ["a", "b", "c", "d"]\nheld_out = 0.2\n'


def described(folder: Path, more: str) -> list[tuple[str, bytes]]:
    path = folder / "set.toml"
    path.write_text(SET + more)
    return [(row.target, row.input.image) for row in read_examples(path)]


def test_parts_of_a_set_are_apart_and_every_label_gives_its_share(tmp_path: Path) -> None:
    write_idx(tmp_path / "idx", *clothes())
    kept, held = (described(tmp_path, f'part = "{part}"') for part in ("kept", "held-out"))
    assert sorted(label for label, _ in held) == sorted("abcd" * 2)
    assert not set(kept) & set(held)
    assert sorted(kept + held) == sorted(described(tmp_path, ""))


def test_parts_depend_on_the_pictures_and_not_on_their_order_or_packing(tmp_path: Path) -> None:
    pixels, labels = clothes()
    write_idx(tmp_path / "idx", pixels, labels)
    before = described(tmp_path, 'part = "held-out"')
    for path in (tmp_path / "idx").iterdir():
        path.unlink()
    order = np.random.default_rng(5).permutation(40)
    write_idx(tmp_path / "idx", pixels[order], [labels[i] for i in order], packed=True)
    assert described(tmp_path, 'part = "held-out"') == before


def test_a_set_that_is_another_one_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "idx", *clothes())
    with pytest.raises(DataError, match=r"other pictures than set\.toml") as caught:
        described(tmp_path, f'sha256 = "{"0" * 64}"')
    digest = str(caught.value).partition("SHA-256 ")[2][:64]
    assert described(tmp_path, f'sha256 = "{digest}"')
    write_idx(tmp_path / "idx", *clothes(seed=1))
    with pytest.raises(DataError, match=r"other pictures than set\.toml"):
        described(tmp_path, f'sha256 = "{digest}"')


def test_a_set_that_is_not_here_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"are not here: .*train-images-idx3-ubyte\.\s+Fetch it from the attic\."):
        described(tmp_path, 'obtain = "Fetch it from the attic."')
    with pytest.raises(DataError, match=r"portion.*Keys: images, labels, part"):
        described(tmp_path, 'portion = "kept"')
