"""The image classifier: a network and what prepares its pixels, as the one surface that trainers, optimizers and runtimes
see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from taskloom.core.anatomy import Graph, SoftTarget, Structure
from taskloom.core.artifact import Artifact, BackboneInfo
from taskloom.core.errors import ArtifactError, DataError, InvalidInputError, UnsupportedError
from taskloom.core.task import Batch, Example, Outputs, TaskModel
from taskloom.plugins._shared.label_scores import best_labels
from taskloom.plugins._shared.weights import stored
from taskloom.plugins.backbones.structure import encoder_structures
from taskloom.plugins.tasks.vision.checkpoints import blank_model, load_checkpoint, read_processor, save_checkpoint
from taskloom.plugins.tasks.vision.graph import groups_of, in_places, network_graph
from taskloom.plugins.tasks.vision.network import CheckpointNetwork, ImageNetwork
from taskloom.plugins.tasks.vision.pixels import FixedSize, PixelReader, ProcessorPixels, batch_of
from taskloom.plugins.tasks.vision.schema import NetworkSettings, SavedVision, VisionInput, VisionOutput, VisionParams
from taskloom.plugins.tasks.vision.structure import network_structures, settings_of

WEIGHTS_FILE = "network.safetensors"
CHECKPOINT_FOLDER = "checkpoint"
WARM_IMAGES = 64
"""As many pictures as a batch may have by default."""


class VisionModel(TaskModel[VisionInput, VisionOutput, VisionParams]):
    """An image classifier. `build` makes a new network to train, `load` reads an artifact's, `import_checkpoint` takes over
    a Hugging Face image classifier.

    `label_smoothing` and `augment` (of the pixels that `collate` gives) belong to the training and are not saved.
    """

    module: ImageNetwork | CheckpointNetwork

    def __init__(self, module: ImageNetwork | CheckpointNetwork, reader: PixelReader, saved: SavedVision) -> None:
        self.module = module
        self.reader = reader
        self.saved = saved
        self.labels = saved.labels
        self.backbone = BackboneInfo(id=saved.backbone, digest=saved.backbone_digest) if saved.backbone else None
        self.label_smoothing = 0.0
        self.augment: Callable[[Tensor], Tensor] | None = None
        self._index = {label: i for i, label in enumerate(saved.labels)}

    # -- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        labels: Sequence[str],
        *,
        network: NetworkSettings | None = None,
        size: int = 32,
        channels: int = 3,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
        mirrored: bool = False,
    ) -> VisionModel:
        """A new network with random weights. `mean` and `std` of the pixels are from 0 to 1, one for each channel or one for
        all. Seed torch first for the same weights again."""
        if len(set(labels)) != len(labels) or not labels or "" in labels:
            raise InvalidInputError("labels must be unique, non-empty and at least one")
        every = {"mean": tuple(mean) * (channels // len(mean)), "std": tuple(std) * (channels // len(std))}
        saved = SavedVision.model_validate(
            {
                "form": "own",
                "labels": tuple(labels),
                "network": network or NetworkSettings(),
                "size": size,
                "channels": channels,
                "mirrored": mirrored,
                **every,
            }
        )
        return cls(_own_network(saved), FixedSize(size, channels), saved)

    @classmethod
    def import_checkpoint(
        cls, name: str, *, labels: Sequence[str] | None = None, mirrored: bool = False, roots: Sequence[Path] = ()
    ) -> VisionModel:
        """A Hugging Face image classifier (`AutoModelForImageClassification`, by id or folder). With `labels` other than its
        own it gets a new head for them, to be trained."""
        found = load_checkpoint(name, labels=labels, roots=roots)
        saved = SavedVision(
            form="imported",
            labels=found.labels,
            multi_label=found.multi_label,
            mirrored=mirrored,
            backbone=name,
            backbone_digest=found.digest,
        )
        return cls(CheckpointNetwork(found.model), ProcessorPixels(found.processor), saved)

    @classmethod
    def load(cls, artifact: Artifact) -> VisionModel:
        try:
            saved = SavedVision.model_validate(dict(artifact.manifest.config))
        except ValueError as exc:
            raise ArtifactError(f"{artifact.name} has a manifest that is no image classifier's: {exc}") from exc
        if saved.form == "imported":
            folder = artifact.folder / CHECKPOINT_FOLDER
            if saved.external:
                return cls(CheckpointNetwork(blank_model(folder)), ProcessorPixels(read_processor(folder)), saved)
            found = load_checkpoint(str(folder), labels=saved.labels, dtype="auto")
            return cls(CheckpointNetwork(found.model), ProcessorPixels(found.processor), saved)
        with torch.device("meta" if saved.external else "cpu"):
            network = _own_network(saved)
        if not saved.external:
            read_weights(network, artifact.path(WEIGHTS_FILE))
        network.eval()
        return cls(network, FixedSize(saved.size, saved.channels), saved)

    # -- the task model -----------------------------------------------------------------------------------------------

    @property
    def graph(self) -> Graph:
        return network_graph(self.module, self.reader.shape(), mirrored=self.saved.mirrored)

    def encode(self, inputs: Sequence[VisionInput]) -> Batch:
        """`pixels` [N, C, H, W] and `sizes` [N, 2] (width, height as sent). Pictures that a processor leaves at different
        sizes lie in groups: `pixels.HxW` [n, C, H, W] and their places in the batch, `places.HxW` [n]."""
        return batch_of([self.reader.read(item.image) for item in inputs])

    def forward(self, batch: Batch) -> Outputs:
        logits = in_places([self._logits(batch[name]) for name in groups_of(batch)], batch)
        return {"logits": logits, "sizes": batch["sizes"]}

    def _logits(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.module(pixels)
        return (logits + self.module(pixels.flip(-1))) / 2 if self.saved.mirrored else logits

    def decode(self, outputs: Outputs, inputs: Sequence[VisionInput], params: Sequence[VisionParams]) -> list[VisionOutput]:
        ranked = best_labels(self.labels, outputs["logits"], params, several=self.saved.multi_label)
        sizes = outputs["sizes"].tolist()
        return [
            VisionOutput(labels=labels, width=width, height=height)
            for labels, (width, height) in zip(ranked, sizes, strict=True)
        ]

    def save(self, folder: Path) -> Mapping[str, Any]:
        if self.saved.external:
            raise UnsupportedError(
                "this model's weights are in the files of the runtime that its artifact demands, and can't be saved apart from "
                "them; use the model that it was made from"
            )
        if isinstance(self.module, CheckpointNetwork):
            assert isinstance(self.reader, ProcessorPixels)
            save_checkpoint(self.module.checkpoint, self.reader.processor, folder / CHECKPOINT_FOLDER)
        else:
            from safetensors.torch import save_file

            save_file(stored(self.module.state_dict()), folder / WEIGHTS_FILE)
        return self.saved.model_dump(mode="json")

    def save_rest(self, folder: Path) -> Mapping[str, Any]:
        if isinstance(self.module, CheckpointNetwork):
            assert isinstance(self.reader, ProcessorPixels)
            save_checkpoint(self.module.checkpoint, self.reader.processor, folder / CHECKPOINT_FOLDER, weights=False)
        return self.saved.model_copy(update={"external": True}).model_dump(mode="json")

    def collate(self, examples: Sequence[Example[VisionInput]]) -> Batch:
        if self.saved.multi_label:
            raise UnsupportedError("pictures with several labels can be asked about, but not trained on: a row has one label")
        targets = torch.tensor([self._label_index(example) for example in examples])
        batch = dict(self.encode([example.input for example in examples]))
        if self.augment is not None:
            for name in [name for name in batch if name.startswith("pixels")]:
                batch[name] = self.augment(batch[name])
        return {**batch, "targets": targets}

    def _label_index(self, example: Example[VisionInput]) -> int:
        if example.target not in self._index:
            raise DataError(
                f"label {example.target!r} is not one of the model's {len(self.labels)} labels",
                path=example.path,
                line=example.line,
            )
        return self._index[example.target]

    def loss(self, batch: Batch) -> Tensor:
        groups = sorted(name for name in batch if name.startswith("pixels"))
        logits = torch.cat([self.module(batch[name]).float() for name in groups])
        targets = batch["targets"].to(logits.device)
        if groups != ["pixels"]:
            targets = targets[torch.cat([batch[name.replace("pixels.", "places.")] for name in groups])]
        return functional.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def distillation_targets(self, outputs: Outputs) -> Mapping[str, SoftTarget]:
        return {"logits": SoftTarget(outputs["logits"], "flags" if self.saved.multi_label else "classes")}

    def structures(self) -> Sequence[Structure]:
        """Those of a network of our own, or of an imported ViT; none of a checkpoint of another kind."""
        if isinstance(self.module, CheckpointNetwork):
            return encoder_structures(self.module.checkpoint, lambda: None)
        return network_structures(self.module, self._note_network)

    def _note_network(self) -> None:
        if isinstance(self.module, ImageNetwork):
            settings = settings_of(self.module, self.saved.network)
            self.saved = self.saved.model_copy(update={"network": settings})

    def warm_up(self, max_cost: int) -> Iterator[Batch]:
        """Batches of 1, 2, 4, ... pictures of the size that the model looks at."""
        one = self.reader.blank()
        most = max(1, min(WARM_IMAGES, max_cost // one.cost))
        counts = [1]
        while counts[-1] < most:
            counts.append(min(2 * counts[-1], most))
        for count in counts:
            yield batch_of([one.prepared] * count)


def _own_network(saved: SavedVision) -> ImageNetwork:
    return ImageNetwork(saved.network, saved.channels, len(saved.labels), saved.mean, saved.std)


def read_weights(network: nn.Module, path: Path) -> None:
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path))
    except (RuntimeError, OSError, ValueError) as exc:
        raise ArtifactError(f"{path.name} is not this model's network: {str(exc).splitlines()[0]}") from exc
