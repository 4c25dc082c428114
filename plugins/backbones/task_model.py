"""What every task model on a text encoder has in common: encoder, head, ragged batches, saving."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.core.anatomy import Graph, Structure
from taskloom.core.artifact import file_label
from taskloom.core.errors import ArtifactError, UnsupportedError
from taskloom.core.task import Batch, Example, In, Out, Outputs, Par, TaskModel
from taskloom.plugins._shared.weights import stored
from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.graph import encoder_graph
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.backbones.packing import row_length
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.backbones.settings import SavedEncoder
from taskloom.plugins.backbones.structure import encoder_structures
from taskloom.plugins.backbones.trunk import EncoderBranch
from taskloom.plugins.backbones.virtual_tokens import VirtualTokens

HEAD_FILE = "head.safetensors"
READ_AT_ONCE = 256


class EncoderModule(nn.Module):
    """Encoder, then head; nothing else, so that several heads can stand on one encoder."""

    def __init__(self, encoder: TextEncoder | EncoderBranch, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states [T, H] of a ragged batch."""
        hidden: Tensor = self.encoder(input_ids, token_type_ids, lengths)
        return hidden


class EncoderTaskModel(TaskModel[In, Out, Par]):
    """A model that runs a text encoder and then a head of its own: subclasses write `encode`, `finish`, `decode` and what
    training needs.

    Batches hold `input_ids` and `token_type_ids` [T] of N sequences that lie end to end, and their `lengths` [N]; anything
    else in them is the task's. `saved` is the task's extension of `SavedEncoder` and becomes the manifest's config.
    """

    module: EncoderModule

    def __init__(self, parts: EncoderParts, head: nn.Module, saved: SavedEncoder) -> None:
        self.parts = parts
        self.saved = saved
        self.backbone = parts.backbone.info if parts.backbone.info.id else None
        self.module = EncoderModule(parts.encoder, head)
        if isinstance(parts.encoder, EncoderBranch):
            self.branch = parts.encoder.place

    @property
    def graph(self) -> Graph | None:
        encoder = self.module.encoder
        return None if isinstance(encoder, EncoderBranch) else encoder_graph(self, encoder)

    def forward(self, batch: Batch) -> Outputs:
        return self.finish(self.module(batch["input_ids"], batch["token_type_ids"], batch["lengths"]), batch)

    @abstractmethod
    def finish(self, hidden: Tensor, batch: Batch) -> Outputs:
        """The head: hidden states [T, H], in the order of the batch's tokens, to the task's outputs."""

    def on_backbone(self, name: str) -> EncoderTaskModel[In, Out, Par]:
        """Texts are cut where this model cuts them, or where the new backbone must."""
        base = load_backbone(name, max_length=self.parts.tokenizer.max_length, roots=self.parts.backbone.roots)
        if Path(name).is_absolute():  # all of it is saved: nobody has to find the folder again, or to be told where it lies
            base.info = base.info.model_copy(update={"id": file_label(name)})
        return self.remade(EncoderParts.build(base))

    def remade(self, parts: EncoderParts) -> EncoderTaskModel[In, Out, Par]:
        """A model like this one on other parts, with a new head. Raises `UnsupportedError` where a task has no such."""
        raise UnsupportedError(
            f"a {type(self).__name__} can't be made anew on backbone {parts.backbone.info.id!r}; train a model on it and name "
            "it as `student`"
        )

    def own_backbone(self) -> None:
        """`EncoderParts.own_backbone`."""
        self.parts.own_backbone()
        self._note_parts()

    def own_restored(self, parameters: Iterable[nn.Parameter]) -> None:
        """`own_backbone` if some of the parameters, which were just read from an earlier training, are the backbone's: frozen
        now, they were trained then, and its name alone would not give them back."""
        own = {id(parameter) for parameter in self.parts.backbone.model.parameters()}
        if self.parts.adapted is None and any(id(parameter) in own for parameter in parameters):
            self.own_backbone()

    def keep_adapter(self, adapted: Any) -> None:
        """`EncoderParts.keep_adapter`."""
        self.parts.keep_adapter(adapted)
        self._note_parts()

    def keep_pieces(self, pieces: Iterable[int]) -> list[int]:
        """`EncoderParts.keep_pieces`."""
        kept = self.parts.keep_pieces(pieces)
        self._note_parts()
        return kept

    def pieces_read(self, examples: Sequence[Example[In]]) -> Tensor:
        """How often each piece of the vocabulary is read in the texts of examples [V]."""
        rows = self.parts.backbone.model.get_input_embeddings().num_embeddings
        inputs = self.inputs_read(examples)
        found = torch.zeros(rows, dtype=torch.long)
        for start in range(0, len(inputs), READ_AT_ONCE):
            ids = self.encode(inputs[start : start + READ_AT_ONCE])["input_ids"]
            found += torch.bincount(ids, minlength=rows)
        return found

    def inputs_read(self, examples: Sequence[Example[In]]) -> list[In]:
        """What of examples a model like this is asked to read: their inputs; a task adds what else it reads in the same
        way."""
        return [example.input for example in examples]

    def keep_virtual_tokens(self, tokens: VirtualTokens) -> list[nn.Parameter]:
        """`EncoderParts.keep_virtual_tokens`."""
        found = self.parts.keep_virtual_tokens(tokens)
        self._note_parts()
        return found

    def restart(self) -> None:
        """`EncoderParts.restart`; the head stays."""
        self.parts.restart()
        self.module.encoder = self.parts.encoder
        self._note_parts()

    def _note_parts(self) -> None:
        self.saved = self.saved.model_copy(update=self.parts.fields())

    def save(self, folder: Path) -> Mapping[str, Any]:
        self.parts.save(folder)
        self.save_own(folder)
        return self.saved.model_dump(mode="json")

    def save_rest(self, folder: Path) -> Mapping[str, Any]:
        saved = self.parts.save_rest(folder, self.module.head)
        self.save_own(folder)
        return {**self.saved.model_dump(mode="json"), **saved.model_dump(mode="json")}

    def save_own(self, folder: Path) -> None:
        """Writes what the task has beside the encoder; a checkpoint's own head is saved with the checkpoint."""
        if self.parts.whole is None:
            save_head(self.module.head, folder / HEAD_FILE)

    def structures(self) -> Sequence[Structure]:
        """Those of the encoder; none while it is shared or has an adapter that isn't merged."""
        if isinstance(self.module.encoder, EncoderBranch):
            return ()
        return encoder_structures(self.parts.backbone.model, self.own_backbone)

    def warm_up(self, max_cost: int) -> Iterator[Batch]:
        """One batch for each length that a packed row can have: what is built per shape is built here."""
        for total in sorted({row_length(tokens) for tokens in range(1, max_cost + 1)}):
            yield self.blank_batch(total)

    def blank_batch(self, tokens: int) -> dict[str, Any]:
        """A batch of so many tokens in the longest sequences that the model takes; a task adds what its `finish` needs."""
        longest = self.parts.tokenizer.max_length
        sizes = torch.tensor([longest] * (tokens // longest) + ([tokens % longest] if tokens % longest else []))
        ids = torch.full((tokens,), self.parts.encoder.pad_token_id, dtype=torch.long)
        return {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "lengths": sizes}


def save_head(head: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(stored(head.state_dict()), path)


def read_head(head: nn.Module, path: Path) -> None:
    """Raises `ArtifactError` if the file does not hold exactly this head's weights."""
    from safetensors.torch import load_file

    try:
        head.load_state_dict(load_file(path))
    except (RuntimeError, OSError, ValueError) as exc:
        raise ArtifactError(f"{path.name} is not this model's head: {str(exc).splitlines()[0]}") from exc
