"""Whose bases there are, and who sees them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taskloom.core.errors import AlreadyExistsError, ArtifactError, NotFoundError
from taskloom.core.knowledge_calls import BaseSpec
from taskloom.server.knowledge.folders import BaseFolders


def fill(content: Path) -> None:
    content.mkdir()


def names(folders: BaseFolders, tenant: str) -> list[str]:
    return [place.spec.base for place in folders.visible(tenant)]


def test_a_tenant_sees_its_own_bases_and_the_shared_ones(tmp_path: Path) -> None:
    folders = BaseFolders(tmp_path)
    folders.create("north", BaseSpec(base="handbook"), fill)
    folders.create("north", BaseSpec(base="news", shared=True), fill)
    folders.create("south", BaseSpec(base="handbook"), fill)
    assert names(folders, "north") == ["handbook", "news"]
    assert names(folders, "south") == ["handbook", "news"]
    assert names(folders, "west") == ["news"]
    assert folders.find("south", "handbook").tenant == "south"
    with pytest.raises(NotFoundError, match=r"no knowledge base named 'handbook'.*news"):
        folders.find("west", "handbook")


def test_a_shared_base_is_changed_by_its_owner_alone(tmp_path: Path) -> None:
    folders = BaseFolders(tmp_path)
    folders.create("north", BaseSpec(base="news", shared=True), fill)
    assert folders.own("north", "news").tenant == "north"
    with pytest.raises(NotFoundError, match="asked, not changed"):
        folders.own("south", "news")


def test_one_name_means_one_base_to_a_tenant(tmp_path: Path) -> None:
    folders = BaseFolders(tmp_path)
    folders.create("north", BaseSpec(base="news", shared=True), fill)
    folders.create("south", BaseSpec(base="handbook"), fill)
    for tenant, spec in (
        ("north", BaseSpec(base="news")),
        ("south", BaseSpec(base="news")),
        ("north", BaseSpec(base="handbook", shared=True)),
    ):
        with pytest.raises(AlreadyExistsError):
            folders.create(tenant, spec, fill)


def test_what_could_not_be_filled_is_not_there(tmp_path: Path) -> None:
    folders = BaseFolders(tmp_path)

    def broken(content: Path) -> None:
        content.mkdir()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folders.create("north", BaseSpec(base="news"), broken)
    assert names(folders, "north") == []
    assert list((tmp_path / "north").iterdir()) == []
    place = folders.create("north", BaseSpec(base="news"), fill)
    folders.discard(folders.put_aside(place))
    assert list((tmp_path / "north").iterdir()) == []
    assert names(folders, "north") == []


def test_a_damaged_base_is_named(tmp_path: Path) -> None:
    folders = BaseFolders(tmp_path)
    place = folders.create("north", BaseSpec(base="news"), fill)
    (place.folder / "base.json").write_text("{")
    with pytest.raises(ArtifactError, match="'news' can't be read"):
        folders.find("north", "news")
    assert names(folders, "north") == []


def test_what_a_process_left_half_made_is_swept_when_it_is_old(tmp_path: Path) -> None:
    folders = BaseFolders(tmp_path)
    old, young = tmp_path / "north" / ".news.0000", tmp_path / "north" / ".news.1111"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (1, 1))
    folders.sweep()
    assert [path.name for path in (tmp_path / "north").iterdir()] == [".news.1111"]
