"""The encoder of a task model with what belongs to it: made to be trained, read from an artifact, written into one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from taskloom.core.artifact import Artifact, BackboneInfo
from taskloom.core.errors import ArtifactError, InvalidInputError, UnsupportedError
from taskloom.core.task import SharedParts
from taskloom.plugins.backbones.adapters import add_adapter, load_adapter, mixable_adapter, save_adapter
from taskloom.plugins.backbones.encoder import WEIGHTS_APART, TextEncoder, can_pack
from taskloom.plugins.backbones.loading import BACKBONE_FOLDER, Backbone, blank_backbone, load_backbone, save_backbone
from taskloom.plugins.backbones.settings import Layout, LoraSettings, SavedEncoder
from taskloom.plugins.backbones.tokenizer import TextTokenizer
from taskloom.plugins.backbones.trunk import EncoderBranch, EncoderTrunk
from taskloom.plugins.backbones.virtual_tokens import (
    VirtualTokens,
    read_virtual_tokens,
    save_virtual_tokens,
    take_virtual_tokens,
    virtual_tokens,
)
from taskloom.plugins.backbones.vocabulary import WordPieces, keep_embeddings, without_pieces

ADAPTER_FOLDER = "adapter"
REST_FILE = "rest.safetensors"
"""The weights of an imported checkpoint that are not in its encoder's graph."""
SHARED = "this model shares its backbone with others and can't be saved; load it alone first"


@dataclass
class EncoderParts:
    """`encoder` is what a task model runs. `adapted` is the PEFT model of an adapter in training, `whole` the checkpoint that
    an imported head came in: it shares its weights with `encoder` and is what is saved."""

    backbone: Backbone
    encoder: TextEncoder | EncoderBranch
    saved: SavedEncoder
    adapted: Any = None
    whole: Any = None

    @property
    def tokenizer(self) -> TextTokenizer:
        return self.backbone.tokenizer

    @property
    def hidden_size(self) -> int:
        return self.backbone.hidden_size

    def fields(self) -> dict[str, Any]:
        """The fields of `SavedEncoder`, for a task's own extension of it."""
        return self.saved.model_dump()

    @classmethod
    def build(
        cls,
        backbone: str | Backbone,
        *,
        adapter: LoraSettings | None = None,
        frozen_layers: int = 0,
        max_length: int = 256,
        layout: Layout | None = None,
    ) -> EncoderParts:
        """An encoder to train. With `adapter` only that is trained; without, the backbone. The bottom `frozen_layers` are
        left as they are in both."""
        base = load_backbone(backbone, max_length=max_length) if isinstance(backbone, str) else backbone
        adapted = add_adapter(base, adapter) if adapter is not None else None
        freeze_bottom(base.model, frozen_layers)
        unchanged = adapted is not None or not any(p.requires_grad for p in base.model.parameters())
        saved = _saved(base, "adapter" if unchanged else "full", has_adapter=adapted is not None)
        return cls(base, TextEncoder(base, layout), saved, adapted=adapted)

    @classmethod
    def import_checkpoint(
        cls, name: str, auto_class: str, *, max_length: int | None = None, layout: Layout | None = None
    ) -> EncoderParts:
        """A Hugging Face checkpoint, by id or folder, with the head that it has: `whole` is the model that `auto_class`
        read."""
        checkpoint = load_backbone(name, max_length=max_length, auto_class=auto_class)
        return cls._imported(checkpoint, _saved(checkpoint, "imported"), layout)

    @classmethod
    def with_head(cls, checkpoint: Backbone, *, frozen_layers: int = 0, layout: Layout | None = None) -> EncoderParts:
        """A model in memory that has a head of its own, such as transformers' `BertForMaskedLM`, as `checkpoint.model`: it is
        trained as a whole, but for its bottom `frozen_layers`."""
        freeze_bottom(checkpoint.model.base_model, frozen_layers)
        return cls._imported(checkpoint, _saved(checkpoint, "imported"), layout)

    @classmethod
    def load(
        cls,
        artifact: Artifact,
        saved: SavedEncoder,
        shared: SharedParts,
        *,
        auto_class: str = "AutoModel",
        layout: Layout | None = None,
    ) -> EncoderParts:
        """The encoder of an artifact. If `shared` wants its backbone, it is a branch of the one copy there. Else its adapter is
        merged into a copy of its own: it costs nothing then, and saving such a model saves all of it. Virtual tokens, which
        can't be merged, stay an adapter."""
        info = BackboneInfo(id=saved.backbone, digest=saved.backbone_digest, licence=saved.backbone_licence)
        kept = SavedEncoder(**{name: getattr(saved, name) for name in SavedEncoder.model_fields})
        if saved.form != "adapter":
            folder = artifact.folder / BACKBONE_FOLDER
            reader = auto_class if saved.form == "imported" else "AutoModel"
            if saved.external:
                base = blank_backbone(folder, max_length=saved.max_length, auto_class=reader)
                if saved.form == "imported":
                    _read_rest(base.model, artifact.path(f"{BACKBONE_FOLDER}/{REST_FILE}"))
            else:
                base = load_backbone(str(folder), dtype="auto", max_length=saved.max_length, auto_class=reader)
            base.info, base.roots = info, artifact.store_roots
            if saved.form == "imported":
                return cls._imported(base, kept, layout)
            return cls._adapted(base, kept, layout, artifact.folder / ADAPTER_FOLDER if saved.has_adapter else None)
        folder_of_adapter = artifact.folder / ADAPTER_FOLDER if saved.has_adapter else None
        if layout is None and shared.wants(info.digest) and (folder_of_adapter is None or mixable_adapter(folder_of_adapter)):
            whole = shared.get(info.digest, lambda: load_backbone(saved.backbone, expect=info, roots=artifact.store_roots))
            if can_pack(whole.model):
                trunk = shared.get(f"{info.digest}/trunk", lambda: EncoderTrunk(whole))
                own = replace(whole, info=info, tokenizer=whole.tokenizer.cut_at(saved.max_length))
                return cls(own, trunk.grow(folder_of_adapter), kept)
        base = load_backbone(saved.backbone, max_length=saved.max_length, expect=info, roots=artifact.store_roots)
        return cls._adapted(base, kept, layout, folder_of_adapter)

    @classmethod
    def _adapted(cls, base: Backbone, saved: SavedEncoder, layout: Layout | None, adapter: Path | None) -> EncoderParts:
        virtual = None if adapter is None else read_virtual_tokens(adapter)
        if adapter is not None and virtual is None:
            load_adapter(base, adapter)
            # A merged backbone is no longer the named one: what is saved from now on must hold it.
            saved = saved.model_copy(update={"form": "full", "has_adapter": False})
        encoder = TextEncoder(base, layout)
        if virtual is not None:
            take_virtual_tokens(encoder, virtual)
        return cls(base, encoder, saved)

    @classmethod
    def _imported(cls, checkpoint: Backbone, saved: SavedEncoder, layout: Layout | None) -> EncoderParts:
        whole = checkpoint.model
        inner = replace(checkpoint, model=whole.base_model)
        return cls(inner, TextEncoder(inner, layout), saved, whole=whole)

    def save(self, folder: Path) -> None:
        """Writes what `saved` says is in the artifact."""
        if isinstance(self.encoder, EncoderBranch):
            raise UnsupportedError(SHARED)
        if not self.encoder.has_weights:
            raise UnsupportedError(WEIGHTS_APART)
        if self.adapted is not None:
            save_adapter(self.adapted, self.backbone, folder / ADAPTER_FOLDER)
        elif virtual := virtual_tokens(self.encoder):
            save_virtual_tokens(virtual, self.backbone.info.id, folder / ADAPTER_FOLDER)
        if self.saved.form != "adapter":
            save_backbone(self.backbone, folder / BACKBONE_FOLDER, self.whole)

    def own_backbone(self) -> None:
        """From now on what is saved holds the backbone: to be called before its weights or its shape change."""
        if isinstance(self.encoder, EncoderBranch):
            raise UnsupportedError("this model shares its backbone with others and can't be changed; load it alone first")
        if self.saved.form == "adapter":
            self.saved = self.saved.model_copy(update={"form": "full"})

    def keep_pieces(self, pieces: Iterable[int]) -> list[int]:
        """Takes other pieces than these and those that `WordPieces.needed` adds out of the vocabulary, from the tokenizer and
        from the embeddings; returns the old ids of those that stay, of which the first is now 0. Raises `UnsupportedError` for
        a tokenizer that is no WordPiece."""
        kept = WordPieces.of(self.tokenizer).needed(pieces)
        tokenizer = without_pieces(self.tokenizer, kept)
        self.own_backbone()
        keep_embeddings(self.backbone.model if self.whole is None else self.whole, kept)
        self.backbone.tokenizer = tokenizer
        return kept

    def keep_adapter(self, adapted: Any) -> None:
        """`adapted` is a PEFT model of the backbone; from now on its adapter is saved beside the backbone, not in it."""
        if self.whole is not None:
            raise UnsupportedError(
                "a model that was imported with its head is saved as one checkpoint, with no place for an adapter beside it; "
                "set merge = true"
            )
        if isinstance(self.encoder, TextEncoder) and virtual_tokens(self.encoder):
            raise UnsupportedError(
                "this model has virtual tokens beside its backbone, and there is place for one adapter only; set merge = true, "
                "or start = 'backbone'"
            )
        self.adapted = adapted
        self.saved = self.saved.model_copy(update={"has_adapter": True})

    def keep_virtual_tokens(self, tokens: VirtualTokens) -> list[nn.Parameter]:
        """The encoder reads each text with these, which are saved beside the backbone. Returns what can be trained of them."""
        if isinstance(self.encoder, EncoderBranch):
            raise UnsupportedError(SHARED)
        if self.whole is not None:
            raise UnsupportedError(
                "a model that was imported with its head is saved as one checkpoint, with no place for virtual tokens beside "
                "it; use lora with merge = true"
            )
        found = take_virtual_tokens(self.encoder, tokens)
        self.saved = self.saved.model_copy(update={"has_adapter": True})
        return found

    def restart(self) -> None:
        """Puts the backbone as it was pretrained, found by its name, in the place of this model's own."""
        info = self.backbone.info
        if not info.id:
            raise UnsupportedError(
                "this model's encoder was made from scratch: there is no pretrained one to begin from; use start = 'model'"
            )
        mine = self.backbone
        self.backbone = load_backbone(info.id, max_length=mine.max_length, expect=info, roots=mine.roots)
        self.encoder = TextEncoder(self.backbone, None if isinstance(self.encoder, EncoderBranch) else self.encoder.layout)
        self.saved = self.saved.model_copy(update={"form": "adapter", "has_adapter": False})
        self.adapted = None

    def save_rest(self, folder: Path, head: nn.Module) -> SavedEncoder:
        """Writes what is needed beside the weights of the encoder's graph: how it is made, its tokenizer and, of an imported
        checkpoint, the weights of its `head`. Returns what `saved` is for such an artifact."""
        if isinstance(self.encoder, EncoderBranch):
            raise UnsupportedError(SHARED)
        if self.adapted is not None:
            raise UnsupportedError("the model's adapter is apart from its backbone; load the model alone, which merges them")
        save_backbone(self.backbone, folder / BACKBONE_FOLDER, self.whole, weights=False)
        if self.whole is not None:
            _save_rest(self.whole, head, folder / BACKBONE_FOLDER / REST_FILE)
        form: Literal["full", "imported"] = "full" if self.whole is None else "imported"
        return self.saved.model_copy(update={"form": form, "has_adapter": False, "external": True})


def _saved(base: Backbone, form: Literal["adapter", "full", "imported"], *, has_adapter: bool = False) -> SavedEncoder:
    return SavedEncoder(
        form=form,
        max_length=base.max_length,
        backbone=base.info.id,
        backbone_digest=base.info.digest,
        backbone_licence=base.info.licence,
        has_adapter=has_adapter,
    )


def _save_rest(whole: Any, head: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    mine = {id(tensor) for tensor in (*head.parameters(), *head.buffers())}
    named = whole.state_dict(keep_vars=True)
    inner = f"{whole.base_model_prefix}."
    outer = {id(tensor) for name, tensor in named.items() if not name.startswith(inner)}
    # Embeddings that the head is tied to are the graph's under their inner name; what is tied inside of the head is held twice.
    own = {name: t for name, t in named.items() if id(t) in mine and not (name.startswith(inner) and id(t) in outer)}
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in own.items()}, path)


def _read_rest(whole: Any, path: Path) -> None:
    """Raises `ArtifactError` if the file holds other weights than some of this checkpoint's."""
    from safetensors.torch import load_file

    try:
        found = whole.load_state_dict(load_file(path), strict=False, assign=True)
    except (RuntimeError, OSError, ValueError) as exc:
        raise ArtifactError(f"{path.name} is not of this model: {str(exc).splitlines()[0]}") from exc
    if found.unexpected_keys:
        raise ArtifactError(f"{path.name} is not of this model: it has {found.unexpected_keys[0]}")


def freeze_bottom(model: Any, layers: int) -> None:
    """Stops the training of a backbone's embeddings and its bottom `layers`; 0 freezes nothing."""
    if layers == 0:
        return
    stack = next((module for module in model.modules() if isinstance(module, nn.ModuleList)), None)
    if stack is None or layers > len(stack):
        raise InvalidInputError(f"frozen_layers is {layers}; the backbone has {0 if stack is None else len(stack)} layers")
    model.get_input_embeddings().requires_grad_(False)
    embeddings = getattr(model, "embeddings", None)
    if embeddings is not None:
        embeddings.requires_grad_(False)
    for layer in stack[:layers]:
        layer.requires_grad_(False)
    if layers == len(stack):
        model.requires_grad_(False)


def set_dropout(module: nn.Module, share: float) -> None:
    """How much every dropout inside of a module drops in training; an adapter has settings of its own."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Dropout) and "lora_dropout" not in name:
            part.p = share
