"""The model as the training loop sees it: batches are rows of a token file, with words hidden anew each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taskloom.core.task import Batch, Example, Outputs, TaskModel
from taskloom.plugins.tasks.fill_mask.corpus import TokenRows
from taskloom.plugins.tasks.fill_mask.masking import Masker
from taskloom.plugins.tasks.fill_mask.model import FillMaskModel
from taskloom.plugins.tasks.fill_mask.schema import TrainConfig
from taskloom.plugins.tasks.fill_mask.vocabulary import table_size


class Pretraining(TaskModel[Any, Any, Any]):
    """A `FillMaskModel` that learns from token rows. What is hidden is drawn from torch's generator, whose state is in every
    checkpoint: a training that goes on hides what it would have hidden."""

    def __init__(self, model: FillMaskModel, rows: TokenRows, masker: Masker) -> None:
        self.model, self.module = model, model.module
        self._rows, self._masker = rows, masker

    def collate(self, examples: Sequence[Example[Any]]) -> Batch:
        processor = self.model.processor
        ids, starts = self._rows.read(
            [example.input.row for example in examples], processor.cls_token_id, processor.sep_token_id
        )
        masked = self._masker.hide(ids, starts)
        flat = masked.ids.flatten()
        return {
            "input_ids": flat,
            "token_type_ids": torch.zeros_like(flat),
            "lengths": torch.full((len(examples),), ids.shape[1], dtype=torch.long),
            "places": masked.places,
            "counts": torch.bincount(masked.places // ids.shape[1], minlength=len(examples)),
            "labels": masked.labels,
        }

    def loss(self, batch: Batch) -> Tensor:
        return self.model.loss(batch)

    # -- what the model does ------------------------------------------------------------------------------------------

    def encode(self, inputs: Sequence[Any]) -> Batch:
        return self.model.encode(inputs)

    def forward(self, batch: Batch) -> Outputs:
        return self.model.forward(batch)

    def decode(self, outputs: Outputs, inputs: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        return self.model.decode(outputs, inputs, params)

    def save(self, folder: Path) -> Mapping[str, Any]:
        return self.model.save(folder)


def masker_for(processor: Any, config: TrainConfig) -> Masker:
    special = torch.ones(table_size(processor), dtype=torch.bool)
    special[list(processor.get_vocab().values())] = False
    special[processor.all_special_ids] = True
    return Masker(
        mask_id=processor.mask_token_id,
        special=special,
        masking=config.masking,
        rate=config.mask_rate,
        longest_word=config.longest_word,
        span_stop=config.span_stop,
        longest_span=config.longest_span,
    )
