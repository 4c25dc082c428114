"""Where knowledge bases lie: `<root>/<tenant>/<base>/` with `base.json`, what it is, and `content/`, its retriever's own."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from taskloom.core.errors import AlreadyExistsError, ArtifactError, NotFoundError, unknown_name
from taskloom.core.knowledge_calls import AnswerConfig, BaseSpec
from taskloom.core.store import sync_path, write_atomically
from taskloom.core.types import NAME_PATTERN

log = logging.getLogger(__name__)

SPEC = "base.json"
CONTENT = "content"
ABANDONED_S = 3600.0


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
        """What a tenant may ask: its own bases and the shared ones, by name. What can't be read is left out, and logged."""
        found = {place.spec.base: place for place in self._all() if place.spec.shared and place.tenant != tenant}
        found |= {place.spec.base: place for place in self._of(tenant)}
        return [found[name] for name in sorted(found)]

    def find(self, tenant: str, base: str) -> Place:
        """Raises `NotFoundError`, which names the bases that the tenant sees, and `ArtifactError` for one of its own that can't
        be read. Its own are looked up without a look at anybody else's."""
        folder = self.root / tenant / base
        if re.fullmatch(NAME_PATTERN, base) and folder.is_dir():
            try:
                return _read(tenant, folder)
            except ArtifactError:
                if folder.is_dir():  # else it was dropped meanwhile
                    raise
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
            raise _taken(spec.base)
        folder = self.root / tenant / spec.base
        aside = folder.with_name(f".{spec.base}.{uuid.uuid4().hex[:8]}")
        aside.mkdir(parents=True)
        try:
            fill(aside / CONTENT)
            write_atomically(aside / SPEC, spec.model_dump_json(indent=1).encode())
            os.rename(aside, folder)
            sync_path(folder.parent)
        except BaseException as exc:
            shutil.rmtree(aside, ignore_errors=True)
            if isinstance(exc, OSError) and exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise _taken(spec.base) from exc  # somebody else made it meanwhile
            raise
        return Place(tenant, spec, folder)

    def configure(self, place: Place, answering: AnswerConfig) -> Place:
        """From now on the base has these settings, or, where that can't be written, still its old ones."""
        spec = place.spec.model_copy(update={"answering": answering})
        write_atomically(place.folder / SPEC, spec.model_dump_json(indent=1).encode())
        return Place(place.tenant, spec, place.folder)

    def put_aside(self, place: Place) -> Path:
        """From now on the base is not there any more; `discard` what is returned when nobody uses it."""
        aside = place.folder.with_name(f".{place.spec.base}.{uuid.uuid4().hex[:8]}")
        os.rename(place.folder, aside)
        sync_path(place.folder.parent)
        return aside

    def discard(self, aside: Path) -> None:
        shutil.rmtree(aside, ignore_errors=True)

    def sweep(self) -> None:
        """Removes what was being made or thrown away when a process ended, long enough ago that no other one is at it."""
        for tenant in self._folders(self.root):
            for left in tenant.glob(".*"):
                if time.time() - left.stat().st_mtime > ABANDONED_S:
                    shutil.rmtree(left, ignore_errors=True)

    def _all(self) -> Iterator[Place]:
        for folder in self._folders(self.root):
            yield from self._of(folder.name)

    def _of(self, tenant: str) -> Iterator[Place]:
        for folder in self._folders(self.root / tenant):
            try:
                yield _read(tenant, folder)
            except ArtifactError as exc:
                log.warning("%s (tenant %s): %s", exc, tenant, exc.__cause__)

    @staticmethod
    def _folders(folder: Path) -> list[Path]:
        if not folder.is_dir():
            return []
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read(tenant: str, folder: Path) -> Place:
    """Raises `ArtifactError`, which says nothing of where the base lies."""
    try:
        spec = BaseSpec.model_validate_json((folder / SPEC).read_bytes())
    except (OSError, ValidationError) as exc:
        raise ArtifactError(f"knowledge base {folder.name!r} can't be read: its {SPEC} is absent or damaged") from exc
    return Place(tenant, spec, folder)


def _taken(base: str) -> AlreadyExistsError:
    return AlreadyExistsError(f"there is a knowledge base {base!r}; choose another name, or drop that one first")
