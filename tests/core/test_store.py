from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from taskloom.core.artifact import MANIFEST, Artifact, Manifest
from taskloom.core.errors import ArtifactError, InvalidInputError, NotFoundError
from taskloom.core.store import ModelStore, write_atomically


def publish(store: ModelStore, content: str = "weights", model: str = "intent-en", **kwargs: object) -> Artifact:
    with store.draft(model) as draft:
        (draft / "model.safetensors").write_text(content, encoding="utf-8")
        (draft / "figures").mkdir()
        (draft / "figures" / "confusion.png").write_bytes(b"png")
        manifest = Manifest(model=model, task="classification", created="2026-11-21T00:00:00Z")
        return store.publish(draft, manifest, **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore([tmp_path / "bundled", tmp_path / "own"])


def test_versions_count_up_and_aliases_follow(store: ModelStore) -> None:
    first, second = publish(store), publish(store, "better")
    assert (first.manifest.version, second.manifest.version) == ("1", "2")
    assert store.resolve("intent-en").manifest.version == "1"
    assert store.resolve("intent-en@candidate").manifest.version == "2"
    assert store.resolve("intent-en@2").digest == second.digest != first.digest


def test_numbers_go_on_after_nine(store: ModelStore) -> None:
    for _ in range(11):
        publish(store)
    assert store.versions("intent-en")[-2:] == ["10", "11"]


def test_promotion_and_roll_back(store: ModelStore) -> None:
    publish(store)
    publish(store)
    store.set_alias("intent-en", "production", "candidate", reason="better")
    assert store.resolve("intent-en").manifest.version == "2"
    move = store.roll_back("intent-en")
    assert (move.before, move.after) == ("2", "1")
    assert store.resolve("intent-en").manifest.version == "1"
    assert [m.reason for m in store.history("intent-en") if m.alias == "production"] == ["published", "better", "rolled back"]


def test_a_first_version_has_nothing_to_go_back_to(store: ModelStore) -> None:
    publish(store)
    with pytest.raises(NotFoundError, match="no earlier version"):
        store.roll_back("intent-en")


def test_a_number_is_no_alias(store: ModelStore) -> None:
    publish(store)
    with pytest.raises(InvalidInputError):
        store.set_alias("intent-en", "7", "1")


@pytest.mark.parametrize("alias", ["2", "Prod", "a b", ""])
def test_what_is_published_gets_no_alias_that_is_none(store: ModelStore, alias: str) -> None:
    with pytest.raises(InvalidInputError, match="can't be an alias"):
        publish(store, aliases=("candidate", alias))
    assert store.models() == []


def test_the_users_versions_go_on_from_the_bundled_ones(tmp_path: Path) -> None:
    bundled = ModelStore([tmp_path / "bundled"])
    publish(bundled)
    store = ModelStore([tmp_path / "bundled", tmp_path / "own"])
    assert publish(store).manifest.version == "2"
    assert store.resolve("intent-en").folder == tmp_path / "bundled" / "intent-en" / "1"
    store.set_alias("intent-en", "production", "2")
    assert store.resolve("intent-en").folder == tmp_path / "own" / "intent-en" / "2"
    assert store.roll_back("intent-en").after == "1"


def test_the_users_version_is_not_hidden_by_a_later_box(tmp_path: Path) -> None:
    """A box that comes later may have a version of a number that the user has given."""
    own = ModelStore([tmp_path / "bundled", tmp_path / "own"])
    publish(ModelStore([tmp_path / "bundled"]), "box 1")
    publish(own, "mine")
    own.set_alias("intent-en", "production", "2")
    publish(ModelStore([tmp_path / "bundled"]), "box 2", aliases=("latest",))
    content = {
        name: own.resolve(f"intent-en@{name}").path("model.safetensors").read_text() for name in ("2", "1", "production")
    }
    assert content == {"2": "mine", "1": "box 1", "production": "mine"}
    with pytest.raises(ArtifactError, match="models promote intent-en VERSION --alias latest"):
        own.resolve("intent-en@latest")  # the box's 2, which no number names any more
    own.set_alias("intent-en", "latest", "1")
    assert own.resolve("intent-en@latest").path("model.safetensors").read_text() == "box 1"


def test_unknown_models_and_versions_say_what_exists(store: ModelStore) -> None:
    publish(store)
    with pytest.raises(NotFoundError, match="There are: intent-en"):
        store.resolve("intent-eng")
    with pytest.raises(NotFoundError, match="candidate"):
        store.resolve("intent-en@9")
    with pytest.raises(InvalidInputError):
        store.resolve("../../etc")


@pytest.mark.parametrize("change", ["edit", "truncate", "remove", "add", "link", "manifest"])
def test_an_altered_artifact_is_refused(store: ModelStore, change: str) -> None:
    artifact = publish(store)
    artifact.verify()
    weights = artifact.folder / "model.safetensors"
    weights.chmod(0o644)
    if change == "edit":
        weights.write_text("Weights", encoding="utf-8")
    elif change == "truncate":
        weights.write_text("w", encoding="utf-8")
    elif change == "remove":
        weights.unlink()
    elif change == "add":
        (artifact.folder / "extra.py").write_text("import os", encoding="utf-8")
    elif change == "link":
        weights.unlink()
        weights.symlink_to("/etc/hostname")
    else:
        path = artifact.folder / MANIFEST
        path.chmod(0o644)
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"intent-en|manifest"):
        store.resolve("intent-en@1").verify()


def test_a_version_copied_by_hand_is_not_taken_for_another(store: ModelStore) -> None:
    first = publish(store)
    shutil.copytree(first.folder, first.folder.with_name("2"))
    with pytest.raises(ArtifactError, match=r"folder of .*@2 holds .*@1"):
        store.resolve(f"{first.manifest.model}@2")


def test_a_draft_that_fails_leaves_nothing(store: ModelStore) -> None:
    def half() -> None:
        with store.draft("intent-en") as draft:
            (draft / "model.safetensors").write_text("half", encoding="utf-8")
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        half()
    assert store.models() == []
    assert [p for p in (store.writable / "intent-en").iterdir() if p.name.startswith(".draft")] == []


def _publish_for_ever(root: str) -> None:
    store = ModelStore([Path(root)])
    while True:
        publish(store, content="x" * 200_000)


def _publish_some(root: str, count: int) -> None:
    store = ModelStore([Path(root)])
    for _ in range(count):
        publish(store)


def test_a_reader_never_sees_a_part_of_a_version_however_the_writer_dies(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        writer = context.Process(target=_publish_for_ever, args=(str(tmp_path),))
        writer.start()
        deadline = time.monotonic() + 10
        before = len(ModelStore([tmp_path]).versions("intent-en"))
        while time.monotonic() < deadline and len(ModelStore([tmp_path]).versions("intent-en")) < before + 3:
            time.sleep(0.01)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        store = ModelStore([tmp_path])
        assert len(store.versions("intent-en")) > before
        for artifact in store.artifacts():
            artifact.verify()
        assert store.resolve("intent-en").manifest.version == "1"
    assert publish(ModelStore([tmp_path])).manifest.version == str(len(store.versions("intent-en")))


def test_concurrent_writers_take_different_numbers(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_publish_some, args=(str(tmp_path), 5)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert ModelStore([tmp_path]).versions("intent-en") == [str(n) for n in range(1, 16)]


def test_an_atomic_write_that_fails_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "aliases.json"
    write_atomically(path, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
