"""The model store: versions that never change, aliases that move atomically, readers that see all of a version or none.

    <root>/<model>/<version>/manifest.json ...     an artifact
    <root>/<model>/aliases.json                    {"aliases": {"production": "3"}, "history": [...]}

A store reads from several roots (the models that come with Taskloom, then the user's own) and writes to the last.
A user's alias wins over the bundled one of the same name.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from pydantic import Field

from taskloom.core.artifact import MANIFEST, Artifact, Manifest, file_digest, folder_files
from taskloom.core.errors import AlreadyExistsError, ArtifactError, InvalidInputError, NotFoundError, unknown_name
from taskloom.core.types import NAME_PATTERN, PRODUCTION, Frozen, ModelRef

ALIASES = "aliases.json"


class AliasMove(Frozen):
    """One change of an alias. `before` is None for a new alias, `after` for a removed one."""

    alias: str
    before: str | None
    after: str | None
    time_s: float
    reason: str = ""


class AliasTable(Frozen):
    aliases: Mapping[str, str] = Field(default_factory=dict)
    history: tuple[AliasMove, ...] = ()


def open_store(models_folder: Path) -> ModelStore:
    """The models that came with Taskloom, and the user's own in `models_folder` (`Settings.models_folder`)."""
    return ModelStore([Path(str(files("taskloom.models"))), models_folder])


class ModelStore:
    """Reads from every root, writes to the last. Safe for concurrent processes on one file system."""

    def __init__(self, roots: Sequence[Path]) -> None:
        if not roots:
            raise ValueError("a store needs at least one root")
        self.roots = tuple(roots)

    @property
    def writable(self) -> Path:
        return self.roots[-1]

    # -- reading ------------------------------------------------------------------------------------------------------

    def models(self) -> list[str]:
        return sorted({f.name for root in self.roots if root.is_dir() for f in root.iterdir() if self._versions(root, f.name)})

    def versions(self, model: str) -> list[str]:
        """Oldest first."""
        found = {version for root in self.roots for version in self._versions(root, model)}
        return sorted(found, key=_version_order)

    def aliases(self, model: str) -> dict[str, str]:
        merged: dict[str, str] = {}
        for root in self.roots:
            merged.update(self._table(root, model).aliases)
        return merged

    def history(self, model: str) -> tuple[AliasMove, ...]:
        return self._table(self.writable, model).history

    def resolve(self, ref: ModelRef | str) -> Artifact:
        """The artifact that a name and an alias or version mean now. Its files are not verified yet."""
        ref = ModelRef.parse(ref) if isinstance(ref, str) else ref
        versions = self.versions(ref.name)
        if not versions:
            raise unknown_name("model", ref.name, self.models(), "`taskloom models list` describes them.")
        aliases = self.aliases(ref.name)
        version = aliases.get(ref.version, ref.version)
        self._refuse_other_box(ref, version)
        for root in reversed(self.roots):
            folder = root / ref.name / version
            if version in versions and (folder / MANIFEST).is_file():
                named = tuple(sorted(alias for alias, target in aliases.items() if target == version))
                artifact = Artifact.open(folder, named, self.roots)
                if artifact.name != f"{ref.name}@{version}":
                    raise ArtifactError(
                        f"the folder of {ref.name}@{version} holds {artifact.name}: it was copied or renamed by hand; "
                        f"publish it under its own name"
                    )
                return artifact
        raise unknown_name(f"version of {ref.name}", ref.version, [*versions, *aliases])

    def _refuse_other_box(self, ref: ModelRef, version: str) -> None:
        """A number means the user's own version, which a later box may have as well. An alias of the box then means one that
        can't be told by its number: rather none than another."""
        named = next((root for root in reversed(self.roots) if ref.version in self._table(root, ref.name).aliases), None)
        own = next((root for root in reversed(self.roots) if (root / ref.name / version / MANIFEST).is_file()), None)
        if named is None or own in (None, named) or not (named / ref.name / version / MANIFEST).is_file():
            return
        raise ArtifactError(
            f"{ref.version!r} of {ref.name} is version {version} of what came with Taskloom, and your own have a version "
            f"{version} as well; say which one it is to be: taskloom models promote {ref.name} VERSION --alias {ref.version}"
        )

    def artifacts(self) -> Iterator[Artifact]:
        for model in self.models():
            for version in self.versions(model):
                yield self.resolve(ModelRef(name=model, version=version))

    @staticmethod
    def _versions(root: Path, model: str) -> list[str]:
        folder = root / model
        if not re.fullmatch(NAME_PATTERN, model) or not folder.is_dir():
            return []
        return [f.name for f in folder.iterdir() if re.fullmatch(NAME_PATTERN, f.name) and (f / MANIFEST).is_file()]

    @staticmethod
    def _table(root: Path, model: str) -> AliasTable:
        try:
            return AliasTable.model_validate_json((root / model / ALIASES).read_bytes())
        except FileNotFoundError:
            return AliasTable()
        except ValueError as exc:
            raise ArtifactError(f"{ALIASES} of {model} can't be read: {exc}") from exc

    # -- writing ------------------------------------------------------------------------------------------------------

    @contextmanager
    def draft(self, model: str) -> Iterator[Path]:
        """A folder to put a new version's files in; removed at the end unless `publish` took it."""
        ModelRef(name=model)
        folder = self.writable / model / f".draft-{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(
        self,
        draft: Path,
        manifest: Manifest,
        aliases: Sequence[str] = ("candidate",),
        reason: str = "",
        *,
        first_is_live: bool = True,
    ) -> Artifact:
        """Makes the draft a version, under the next free number, and points `aliases` at it. All of it or nothing: files are
        on stable storage before the version has a name. The first version of a model becomes `production` as well, unless
        `first_is_live` is False."""
        for alias in aliases:
            check_alias(alias)
        files = {name: file_digest(path) for name, path in folder_files(draft).items() if name != MANIFEST}
        home = self.writable / manifest.model
        with self._locked(manifest.model):
            taken = [int(v) for v in self.versions(manifest.model) if v.isdecimal()]
            version = str(max(taken, default=0) + 1)
            final = home / version
            complete = manifest.model_copy(update={"version": version, "files": files})
            (draft / MANIFEST).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
            for path in folder_files(draft).values():
                path.chmod(0o444)
                sync_path(path)
            for folder in [draft, *(p for p in draft.rglob("*") if p.is_dir())]:
                sync_path(folder)
            if final.exists():
                raise AlreadyExistsError(f"{manifest.model}@{version} exists in {home}")
            os.rename(draft, final)
            sync_path(home)
            wanted = set(aliases) | ({PRODUCTION} if first_is_live and not taken else set())
            self._move(manifest.model, dict.fromkeys(sorted(wanted), version), reason or "published")
        return self.resolve(ModelRef(name=manifest.model, version=version))

    def set_alias(self, model: str, alias: str, version: str, reason: str = "") -> AliasMove:
        """Points `alias` at a version that exists."""
        target = self.resolve(ModelRef(name=model, version=version)).manifest.version
        check_alias(alias)
        with self._locked(model):
            return self._move(model, {alias: target}, reason)[0]

    def roll_back(self, model: str, alias: str = PRODUCTION, reason: str = "") -> AliasMove:
        """Points `alias` back at where it pointed before its last move."""
        with self._locked(model):
            current = self.aliases(model).get(alias)
            moves = [m for m in self._table(self.writable, model).history if m.alias == alias and m.after == current]
            if not moves or moves[-1].before is None:
                raise NotFoundError(
                    f"{alias} of {model} has no earlier version to go back to (it is at {current or 'nothing'})"
                )
            return self._move(model, {alias: moves[-1].before}, reason or "rolled back")[0]

    def _move(self, model: str, targets: Mapping[str, str], reason: str) -> list[AliasMove]:
        table = self._table(self.writable, model)
        effective = self.aliases(model)
        now = time.time()
        moves = [
            AliasMove(alias=alias, before=effective.get(alias), after=version, time_s=now, reason=reason)
            for alias, version in targets.items()
        ]
        changed = AliasTable(aliases={**table.aliases, **targets}, history=(*table.history, *moves))
        write_atomically(self.writable / model / ALIASES, changed.model_dump_json(indent=2).encode() + b"\n")
        return moves

    @contextmanager
    def _locked(self, model: str) -> Iterator[None]:
        folder = self.writable / model
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def check_alias(alias: str) -> None:
    """Raises `InvalidInputError` for what can't be an alias."""
    if alias.isdecimal() or not re.fullmatch(NAME_PATTERN, alias):
        raise InvalidInputError(f"{alias!r} can't be an alias: a number is a version; use a word such as 'production'")


def _version_order(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdecimal() else (0, version)


def sync_path(path: Path) -> None:
    """Puts a file's content, or a folder's entries, on stable storage."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replaces a file so that a reader, or a crash, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_path(path.parent)
