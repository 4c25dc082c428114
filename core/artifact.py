"""An artifact: one immutable version of a model on disk, and the manifest that vouches for its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from taskloom.core.errors import ArtifactError
from taskloom.core.types import Frozen, ModelInfo, Name

MANIFEST = "manifest.json"
REPORT = "report.json"
CARD = "MODEL_CARD.md"
FORMAT: Literal[1] = 1


class FileDigest(Frozen):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class BackboneInfo(Frozen):
    """The pretrained encoder that the weights belong to. `id` is a package's name for it, a Hugging Face id or a folder
    name; `digest` is the SHA-256 of its weights file, so that a different one is noticed."""

    id: str
    digest: str = ""
    licence: str = ""


class DataInfo(Frozen):
    """A data file that the model was trained on: its SHA-256 identifies it, wherever it lies."""

    name: str
    sha256: str
    rows: int = Field(ge=0)
    licence: str = ""
    source: str = ""
    via: str = ""
    """Empty for a file that the model itself was trained on; else the model that was, which this one was made from."""


class ParentInfo(Frozen):
    model: str
    version: str
    digest: str


class LineageStep(Frozen):
    """One thing that was done to the model: a training or an optimizer, with every setting."""

    name: str
    config: Mapping[str, Any] = Field(default_factory=dict)
    facts: Mapping[str, Any] = Field(default_factory=dict)


class Manifest(Frozen):
    """Everything that is known of an artifact. `files` lists every file but the manifest itself."""

    format: Literal[1] = FORMAT
    model: Name
    version: str = ""
    task: str
    created: str
    """UTC, ISO 8601."""
    description: str = ""
    languages: tuple[str, ...] = ()
    licence: str = ""
    runtime: str = ""
    """The runtime that must serve it; empty for any."""
    backbone: BackboneInfo | None = None
    config: Mapping[str, Any] = Field(default_factory=dict)
    """The task's own: what `TaskModel.save` returned."""
    labels: tuple[str, ...] = ()
    streams: bool | None = None
    """Whether the model writes its answers piece by piece; null, in artifacts from before this was told, if its task has
    models that do."""
    examples: tuple[Mapping[str, Any], ...] = ()
    """Inputs worth trying on this model, as JSON data."""
    parent: ParentInfo | None = None
    steps: tuple[LineageStep, ...] = ()
    data: tuple[DataInfo, ...] = ()
    packages: Mapping[str, str] = Field(default_factory=dict)
    metrics: Mapping[str, float] = Field(default_factory=dict)
    files: Mapping[str, FileDigest] = Field(default_factory=dict)


def file_digest(path: Path) -> FileDigest:
    """Reads the file once, in pieces."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    return FileDigest(sha256=digest.hexdigest(), size_bytes=path.stat().st_size)


def file_label(path: str) -> str:
    """What a file is called beside others: its folder's name and its own, and nothing of where they lie.

    >>> file_label("/data/wikigold/dev.jsonl")
    'wikigold/dev.jsonl'
    """
    return "/".join(Path(path).parts[-2:]).lstrip("/")


def folder_files(folder: Path) -> dict[str, Path]:
    """Every regular file below `folder` by its relative POSIX path. A link is refused: it points out of what is vouched
    for."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ArtifactError(
                f"{path.relative_to(folder)} in {folder.parent.name}/{folder.name} is a link; artifacts hold plain files only"
            )
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = path
    return files


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk. Reading its manifest proves nothing about its files; `verify` does."""

    folder: Path
    manifest: Manifest
    aliases: tuple[str, ...] = ()
    roots: tuple[Path, ...] = ()
    """Of the store that it was read from; empty for one that was opened by its folder."""

    @classmethod
    def open(cls, folder: Path, aliases: tuple[str, ...] = (), roots: tuple[Path, ...] = ()) -> Artifact:
        """Reads the manifest; raises `ArtifactError` if there is none or it can't be understood."""
        try:
            manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        except OSError as exc:
            raise ArtifactError(f"{folder.name} has no readable {MANIFEST}: {exc.strerror}") from exc
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ArtifactError(
                f"{MANIFEST} of {folder.name} can't be used: {where}: {first['msg']} (this version reads format {FORMAT})"
            ) from exc
        return cls(folder, manifest, aliases, roots)

    @property
    def store_roots(self) -> tuple[Path, ...]:
        """Where the models are looked for that it names, such as its backbone: in the store that it was read from, else in the
        one that its folder lies in (`<root>/<model>/<version>`)."""
        return self.roots or (self.folder.parent.parent,)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds the SHA-256 of every other file."""
        return file_digest(self.folder / MANIFEST).sha256

    @property
    def name(self) -> str:
        return f"{self.manifest.model}@{self.manifest.version}"

    def path(self, name: str) -> Path:
        if name not in self.manifest.files:
            raise ArtifactError(f"{self.name} holds no {name}; it holds {', '.join(self.manifest.files)}")
        return self.folder / name

    def verify(self) -> None:
        """Reads every file; raises `ArtifactError` naming the first that is missing, altered or not in the manifest."""
        present = folder_files(self.folder)
        present.pop(MANIFEST, None)
        for name in sorted(present.keys() | self.manifest.files.keys()):
            if name not in present:
                raise ArtifactError(f"{self.name} is incomplete: {name} is missing; publish or install it again")
            if name not in self.manifest.files:
                raise ArtifactError(f"{self.name} holds {name}, which its manifest does not list; remove the file")
            if file_digest(present[name]) != self.manifest.files[name]:
                raise ArtifactError(f"{self.name} was altered: {name} is not the file in its manifest; install it again")

    def info(self, ready: bool = False) -> ModelInfo:
        m = self.manifest
        return ModelInfo(
            name=m.model,
            version=m.version,
            task=m.task,
            aliases=self.aliases,
            description=m.description,
            backbone=m.backbone.id if m.backbone else "",
            languages=m.languages,
            licence=m.licence,
            metrics=m.metrics,
            size_bytes=sum(f.size_bytes for f in m.files.values()),
            ready=ready,
        )
