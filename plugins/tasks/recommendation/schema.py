"""What recommendation takes, gives and can be told. Imports no ML library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from taskloom.core.types import Frozen
from taskloom.plugins._shared.loop_config import LoopConfig
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE, SavedEncoder

MAX_HISTORY = 10_000
MAX_LIKES = 64
MAX_WORDS = 10_000
MAX_FEATURES = 64
MAX_TOP_K = 1_000


def _visible(text: str) -> str:
    if not any(character.isprintable() and not character.isspace() for character in text):
        raise ValueError("the text is empty or blank; send at least one visible character")
    return text


Id = Annotated[str, Field(strict=True, min_length=1, max_length=200)]
"""An item's or a user's name in the caller's own books."""

Words = Annotated[str, Field(strict=True, max_length=MAX_WORDS), AfterValidator(_visible)]
Value = Annotated[str, Field(strict=True, max_length=200)]
Wanted = Value | tuple[Value, ...]


class RecommendationInput(Frozen):
    """A user: one that the model knows, or whoever `history`, `likes` and `features` describe; anything may be left out.

    `history` are items that the user chose, oldest first; for a known user, those since the model was trained. `likes` are
    descriptions in words, or titles: a text that is an item's title counts as that item.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"likes": ["a space adventure with giant robots"]},
                {"history": ["5", "1"], "likes": ["comedy set in a school"]},
                {"user": "u-17", "history": [], "likes": ["太空冒险"], "features": {"country": "JP"}},
            ]
        }
    )

    user: Annotated[str, Field(strict=True, max_length=200)] = ""
    history: tuple[Id, ...] = Field(default=(), max_length=MAX_HISTORY)
    likes: tuple[Words, ...] = Field(default=(), max_length=MAX_LIKES)
    features: Mapping[Value, Value] = Field(default_factory=dict, max_length=MAX_FEATURES)


class Reason(Frozen):
    """An item that the user chose, and the cosine of its vector and the recommended item's."""

    item: str
    title: str
    similarity: float


class Recommendation(Frozen):
    """An item. `score` is higher for better, and comparable within one answer only."""

    item: str
    title: str
    score: float
    reasons: tuple[Reason, ...] = ()


class RecommendationOutput(Frozen):
    """Items, best first. `unknown` are the ids of the input (and its features, as `name=value`), of `among` and of `exclude`
    that the model does not know; they were passed over."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "item": "20",
                            "title": "Cowboy Bebop",
                            "score": 7.25,
                            "reasons": [{"item": "5", "title": "Trigun", "similarity": 0.61}],
                        }
                    ],
                    "unknown": ["no-such-item"],
                },
                {"items": [], "unknown": []},
            ]
        }
    )

    items: tuple[Recommendation, ...]
    unknown: tuple[str, ...] = ()


class RecommendationParams(Frozen):
    """What to recommend. `where` are attributes that items must have, `where_not` those that they must not: one value, or
    several of which one is enough; letter case makes no difference. `among` names the only items to choose from (empty: all),
    `exclude` items to leave out. Items of the history are left out unless `include_seen`. `reasons` is how many items of the
    history are named for each recommendation, at most: those that are like it. With `language` titles are given in it where the
    model has them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"top_k": 3, "where": {"type": "TV", "genres": ["Comedy", "Parody"]}, "where_not": {"genres": "Horror"}},
                {"exclude": ["5"], "include_seen": True, "reasons": 0, "language": "zh"},
            ]
        }
    )

    top_k: int = Field(default=10, ge=1, le=MAX_TOP_K)
    where: Mapping[str, Wanted] = Field(default_factory=dict)
    where_not: Mapping[str, Wanted] = Field(default_factory=dict)
    among: tuple[Id, ...] = ()
    exclude: tuple[Id, ...] = ()
    include_seen: bool = False
    reasons: int = Field(default=3, ge=0, le=20)
    language: str = Field(default="", max_length=20)


class HeldOut(Frozen):
    """The target of an evaluation row: items that the user chose and that are not in the history. `warm` are items that
    other users' histories hold, `cold` are in nobody's: the model has met them as text only."""

    warm: tuple[Id, ...] = ()
    cold: tuple[Id, ...] = ()


class CatalogueConfig(Frozen):
    """How the rows of an items file are understood. It must have the columns `item` and `title`; `title_<language>` is the
    title in another language."""

    attributes: tuple[str, ...] = ()
    """Columns that items can be filtered by, and that the item tower is told."""
    separator: str = Field(default="|", min_length=1)
    """Between the values of an attribute that has several; JSONL may have lists instead."""
    leave_out: Mapping[str, Wanted] = Field(default_factory=dict)
    """Items with these attributes are never recommended: they are not in the catalogue."""

    @model_validator(mode="after")
    def _known(self) -> CatalogueConfig:
        unknown = sorted(set(self.leave_out) - set(self.attributes))
        if unknown:
            raise ValueError(f"leave_out names {unknown[0]!r}, which is not one of the attributes {list(self.attributes)}")
        return self


class TowerConfig(Frozen):
    """The shape of the two towers."""

    dimensions: int = Field(default=384, ge=2)
    """Of the vectors whose inner product is the score."""
    hidden: int = Field(default=128, ge=2)
    """Of the layers between."""
    reading: int = Field(default=64, ge=2)
    """Of the compressed texts by which a user's words find items like them."""
    recency: int = Field(default=0, ge=0)
    """How many of the latest items get a learnt weight by their place; 0 where histories have no order."""
    max_history: int = Field(default=2_000, ge=1)
    """The latest items that are read of a history."""
    max_length: int = Field(default=64, ge=8)
    """Tokens of an item's or a like's text; longer ones are cut."""


class TrainConfig(LoopConfig):
    """How to train two towers. An example is a user, so `batch_size` counts users; all rates are the task layer's, since the
    backbone is not trained."""

    items: str = "items.csv"
    """The items file, relative to the folder of the training file."""
    catalogue: CatalogueConfig = CatalogueConfig()
    towers: TowerConfig = TowerConfig()
    backbone: str = DEFAULT_BACKBONE
    """Embeds titles and attributes once, and what users say they like at each request; it stays as it is."""
    epochs: int = Field(default=2, ge=1)
    batch_size: int = Field(default=256, ge=2)
    head_learning_rate: float = Field(default=1e-5, gt=0)
    """Small: the towers start from the best linear model of their size, and noise would wash it away."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    validation_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Of users, whose histories are cut in two: the model is judged by whether it finds the second half."""
    target_share: float = Field(default=0.2, gt=0, lt=1)
    """Of a history, drawn anew each time: what the user tower must find from the rest."""
    targets_per_user: int = Field(default=64, ge=1)
    id_dropout: float = Field(default=0.05, ge=0, lt=1)
    """Items whose id is hidden in a step, so that text and attributes alone make a usable vector."""
    hard_negatives: int = Field(default=0, ge=0)
    """A user: the best-scored items of the current index that are not in the history, beside the batch's own."""
    temperature: float = Field(default=1.0, gt=0)
    popularity: float = Field(default=1.0, ge=0, le=1)
    """How much of an item's popularity its score keeps: 1 is the full logQ correction, so that scores mean how likely a choice
    is; less favours what few know."""
    ridge: float = Field(default=300.0, gt=0)
    """Regularization of the linear model that the towers start from; more for more users."""
    content_ridge: float = Field(default=30.0, gt=0)
    """Regularization of the item tower's first weights."""
    damping: float = Field(default=0.1, ge=0, lt=1)
    """First scores are divided by popularity to this power: what everybody has is no sign of taste."""
    sharpness: float = Field(default=14.0, gt=0)
    """What the linear model's scores, which are 0 to 1 or so, are multiplied by to be logits."""
    keep_users: bool = False
    """Keep the users of the training data, with their histories, so that requests may name them; and learn a vector for
    each."""


class SavedRecommender(SavedEncoder):
    """What an artifact's manifest keeps of a recommender beside its files: the items, the users, the vectors, the towers."""

    catalogue: CatalogueConfig
    towers: TowerConfig
    values: tuple[str, ...] = ()
    """`attribute=value` of the item tower's inputs, in their order."""
    features: tuple[str, ...] = ()
    """`name=value` of the user features that the user tower knows, in their order."""
    users: int = Field(default=0, ge=0)
    """Known users; their histories are in the artifact."""
