"""Training two towers: reading the items, embedding their texts once, first weights, the loop, and the finished vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taskloom.core.artifact import file_digest
from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.errors import DataError
from taskloom.core.task import Trained, TrainRun
from taskloom.plugins._shared.datasets import stratified_split
from taskloom.plugins._shared.training import Validation, fit, seed_everything
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.tasks.recommendation.catalogue import Catalogue
from taskloom.plugins.tasks.recommendation.interactions import Examples
from taskloom.plugins.tasks.recommendation.known_users import KnownUsers
from taskloom.plugins.tasks.recommendation.learning import ItemIds, Learning, user_vectors
from taskloom.plugins.tasks.recommendation.model import RecommendationModel
from taskloom.plugins.tasks.recommendation.schema import (
    RecommendationInput,
    RecommendationOutput,
    RecommendationParams,
    TrainConfig,
)
from taskloom.plugins.tasks.recommendation.start import matrix_of, start_from_linear

EMBEDDINGS_FILE = "item-texts.safetensors"
JUDGED_AT = 10


def train(
    config: TrainConfig, rows: Examples, validation: Examples, run: TrainRun
) -> Trained[RecommendationInput, RecommendationOutput, RecommendationParams]:
    """Trains a recommender. The items file lies beside the training file. `validation` rows are users whose history is whole;
    without them a part of the users is held out. Raises `DataError` if no history has an item of the catalogue."""
    items_path = Path(rows[0].path).parent / config.items if rows else Path(config.items)
    catalogue = Catalogue.read(items_path, config.catalogue)
    digest = file_digest(items_path).sha256
    if validation:
        kept, held = list(rows), list(validation)
    else:
        kept, held = stratified_split(rows, lambda _: "", config.validation_fraction, config.seed)
    seed_everything(config.seed)
    users = KnownUsers((e.input.user, e.input.history) for e in kept if e.input.user) if config.keep_users else KnownUsers()
    features = sorted({f"{name}={value}" for e in kept for name, value in e.input.features.items()})
    backbone = load_backbone(config.backbone, max_length=config.towers.max_length, roots=run.roots)
    model = RecommendationModel.build(catalogue, towers=config.towers, backbone=backbone, users=users, features=features)
    histories = [[catalogue.places[item] for item in dict.fromkeys(e.input.history) if item in catalogue.places] for e in kept]
    if not any(histories):
        raise DataError(f"no item of {items_path} is in a history of {rows[0].path if rows else 'the training data'}")
    texts = embedded_texts(model, run.work_folder)
    start_learning(model, texts, histories, config)
    learning = model.learning
    assert learning is not None
    chosen = matrix_of(histories, len(catalogue))
    result = fit(
        model,
        [example for example, history in zip(kept, histories, strict=True) if history],
        config,
        run,
        length=lambda _: 1,
        fingerprint=_fingerprint(config, digest, kept, held),
        validation=Validation(_measure(model, held), f"recall@{JUDGED_AT}") if held else None,
        is_head=lambda _: True,
        prepare=lambda: start_from_linear(model.towers.item, model.towers.user, learning.ids, chosen, config),
    )
    model.settle()
    facts = {
        **result.facts,
        "validation_rows": len(held),
        "items": len(catalogue),
        "items_in_histories": int(learning.ids.met.sum()),
        "interactions": int(sum(len(history) for history in histories)),
        "items_sha256": digest,
    }
    return Trained(model, result.history, facts)


def start_learning(model: RecommendationModel, texts: Tensor, histories: Sequence[Sequence[int]], config: TrainConfig) -> None:
    """Gives the model what it needs to be trained. `texts` are embeddings [I, E] of the items' texts."""
    items = model.catalogue.items
    met = torch.zeros(len(items), dtype=torch.bool)
    met[torch.tensor([place for history in histories for place in history], dtype=torch.long)] = True
    ids = ItemIds(model.content(items, texts), met, config.towers.dimensions)
    model.learn_to_read(texts)
    model.towers.start_learning(ids)
    model.learning = Learning(model.towers.item, model.towers.user, ids, config, histories)


def embedded_texts(model: RecommendationModel, folder: Path) -> Tensor:
    """The backbone's vectors [I, E] of the items' texts; kept in `folder`, since an interrupted training would need them
    again."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    texts = [item.text() for item in model.catalogue.items]
    path = folder / f"{sha256_hex(canonical_json([model.saved.backbone_digest, texts]))[:16]}-{EMBEDDINGS_FILE}"
    try:
        return load_file(path)["texts"]
    except (OSError, SafetensorError, KeyError):
        found = model.embed(texts)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"texts": found}, path)
        return found


def _measure(model: RecommendationModel, held: Examples) -> Callable[[], dict[str, float]]:
    """Recall of half of the held-out users' histories from the other: the later from the earlier half where order matters."""
    ordered = model.saved.towers.recency > 0
    halves = []
    for example in held:
        known = [item for item in example.input.history if item in model.catalogue.places]
        if len(known) > 1:
            first, second = (known[: len(known) // 2], known[len(known) // 2 :]) if ordered else (known[::2], known[1::2])
            told = example.input.model_copy(update={"history": tuple(first), "likes": ()})
            halves.append((told, {model.catalogue.places[item] for item in second}))

    def measure() -> dict[str, float]:
        learning = model.learning
        assert learning is not None
        with torch.inference_mode():
            vectors, weights = learning.ids.vectors(model.towers.item)
            histories = vectors * weights
            found: list[float] = []
            for start in range(0, len(halves), 256):
                part = halves[start : start + 256]
                batch = {name: tensor.to(vectors.device) for name, tensor in model.encode([told for told, _ in part]).items()}
                users = user_vectors(model.towers.user, histories[batch["history"]], batch)
                scores = users @ vectors.T
                scores[batch["history_rows"], batch["history"]] = -torch.inf
                best = scores.topk(min(JUDGED_AT, scores.shape[1]), dim=-1).indices.tolist()
                found += [
                    len(wanted.intersection(row)) / min(len(wanted), JUDGED_AT)
                    for row, (_, wanted) in zip(best, part, strict=True)
                ]
        return {f"recall@{JUDGED_AT}": float(np.mean(found)) if found else 0.0}

    return measure


def _fingerprint(config: TrainConfig, items: str, rows: Examples, held: Examples) -> str:
    """Identifies a training: the same settings on the same rows and items."""
    content: list[Any] = [config.model_dump(mode="json"), items]
    content += [[example.input.model_dump(mode="json") for example in part] for part in (rows, held)]
    return sha256_hex(canonical_json(content))
