"""No report is made from rows that a teacher knows, or that a step was given."""

from __future__ import annotations

from pathlib import Path

import pytest
from optimizer_steps import published, registry

from taskloom.core.artifact import DataInfo, file_digest
from taskloom.core.errors import ConfigError, DataError, NotFoundError
from taskloom.core.optimizing import StepRequest
from taskloom.core.store import ModelStore
from taskloom.plugins.optimizing import DataFiles, named_by, refuse_known_rows
from taskloom.plugins.tasks.classification.model import ClassificationModel


def write(path: Path, text: str) -> Path:
    path.write_text(f'{{"text": "{text}", "label": "one"}}\n', encoding="utf-8")
    return path


def test_what_a_teacher_knows_is_no_evaluation(tmp_path: Path, classifier: ClassificationModel) -> None:
    train, fresh, taught, texts = (write(tmp_path / f"{name}.jsonl", name) for name in ("train", "fresh", "taught", "texts"))
    store, known = ModelStore([tmp_path / "store"]), DataInfo(name="taught.jsonl", sha256=file_digest(taught).sha256, rows=1)
    parent = published("classification", classifier, tmp_path / "store")
    published("classification", classifier, tmp_path / "store", "other", [known])
    steps = [StepRequest(name="distill", config={"teachers": ["other"], "unlabelled": [str(texts)]})]
    others = named_by(store, registry(), steps)
    refuse_known_rows(parent, DataFiles([train], [fresh]), others)
    with pytest.raises(DataError, match=r"other@1 was trained on it \(taught\.jsonl\)"):
        refuse_known_rows(parent, DataFiles([train], [taught]), others)
    with pytest.raises(DataError, match="which the optimizers get"):
        refuse_known_rows(parent, DataFiles([train], [texts]), others)
    assert [(info.name, info.rows) for info in others.data] == [("taught.jsonl", 1), ("texts.jsonl", 1)]


def test_what_settings_name_must_be_there(tmp_path: Path, classifier: ClassificationModel) -> None:
    store = ModelStore([tmp_path / "store"])
    published("classification", classifier, tmp_path / "store")
    for config, error in (
        ({"student": "nobody"}, NotFoundError),
        ({"unlabelled": ["nowhere.txt"]}, DataError),
        ({"teachers": 3}, ConfigError),
    ):
        with pytest.raises(error):
            named_by(store, registry(), [StepRequest(name="distill", config=config)])
