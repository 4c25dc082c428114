"""Where knowledge bases lie: `<root>/<tenant>/<base>/` with `base.json`, what it is, and `content/`, its retriever's own."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from taskloom.core.errors import AlreadyExistsError, ArtifactError, NotFoundError, unknown_name
from taskloom.core.knowledge_calls import BaseSpec

SPEC = "base.json"
CONTENT = "content"


@dataclass(frozen=True)
class Place:
    """A base, by the tenant that owns it."""

    tenant: str
    spec: BaseSpec
    folder: Path

    @property
    def content(self) -> Path:
        return self.folder / CONTENT


class BaseFolders:
    """The bases of one root. A folder whose name begins with a dot is being made or thrown away, and is no base."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def visible(self, tenant: str) -> list[Place]:
        """What a tenant may ask: its own bases and the shared ones, by name."""
        found = {place.spec.base: place for place in self._all() if place.spec.shared and place.tenant != tenant}
        found |= {place.spec.base: place for place in self._of(tenant)}
        return [found[name] for name in sorted(found)]

    def find(self, tenant: str, base: str) -> Place:
        """Raises `NotFoundError`, which names the bases that the tenant sees."""
        visible = {place.spec.base: place for place in self.visible(tenant)}
        if base not in visible:
            raise unknown_name("knowledge base", base, visible)
        return visible[base]

    def own(self, tenant: str, base: str) -> Place:
        """A base that the tenant may change; raises `NotFoundError` for one of somebody else."""
        place = self.find(tenant, base)
        if place.tenant != tenant:
            raise NotFoundError(f"knowledge base {base!r} is shared by another tenant: it can be asked, not changed")
        return place

    def create(self, tenant: str, spec: BaseSpec, fill: Callable[[Path], None]) -> Place:
        """Makes a base whose content `fill` makes; it is there as a whole or not at all. Raises `AlreadyExistsError` for a name
        that is taken, by a shared base as well: one name must not mean two things to a tenant."""
        taken = {place.spec.base for place in self.visible(tenant)}
        if spec.shared:
            taken |= {place.spec.base for place in self._all()}
        if spec.base in taken:
            raise AlreadyExistsError(f"there is a knowledge base {spec.base!r}; choose another name, or drop that one first")
        folder = self.root / tenant / spec.base
        aside = folder.with_name(f".{spec.base}.{uuid.uuid4().hex[:8]}")
        aside.mkdir(parents=True)
        try:
            fill(aside / CONTENT)
            (aside / SPEC).write_text(json.dumps(spec.model_dump(mode="json"), indent=1), encoding="utf-8")
            os.rename(aside, folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return Place(tenant, spec, folder)

    def drop(self, place: Place) -> None:
        aside = place.folder.with_name(f".{place.spec.base}.{uuid.uuid4().hex[:8]}")
        os.rename(place.folder, aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _all(self) -> Iterator[Place]:
        for folder in self._folders(self.root):
            yield from self._of(folder.name)

    def _of(self, tenant: str) -> Iterator[Place]:
        for folder in self._folders(self.root / tenant):
            try:
                spec = BaseSpec.model_validate_json((folder / SPEC).read_bytes())
            except (OSError, ValidationError) as exc:
                raise ArtifactError(f"knowledge base {folder.name!r} of tenant {tenant!r} can't be read: {exc}") from exc
            yield Place(tenant, spec, folder)

    @staticmethod
    def _folders(folder: Path) -> list[Path]:
        if not folder.is_dir():
            return []
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
