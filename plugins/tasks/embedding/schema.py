"""What embedding takes, gives and can be told. Imports no ML library."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from taskloom.core.types import Frozen
from taskloom.plugins.backbones.settings import EncoderTrainConfig, SavedEncoder

MAX_CHARACTERS = 100_000
INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
"""Unicode categories of control and format characters and of every kind of blank."""

Kind = Literal["query", "passage"]
Pooling = Literal["mean", "cls"]
Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], AfterValidator(lambda sizes: tuple(sorted(set(sizes))))]


def _visible(text: str) -> str:
    if all(unicodedata.category(character) in INVISIBLE for character in text):
        raise ValueError("the text is empty or blank; send at least one visible character")
    return text


Text = Annotated[str, Field(strict=True, max_length=MAX_CHARACTERS), AfterValidator(_visible)]


class EmbeddingInput(Frozen):
    """A text, and what it is in a search: something to find (`passage`), or what it is looked for with (`query`). Models that
    were trained with a prefix for each read it in front of the text; to others both are the same."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "Acme was founded in Leeds in 1961; its head office is in York."},
                {"text": "Where is the head office of Acme?", "kind": "query"},
                {"text": "公司的总部在哪里?", "kind": "query"},
            ]
        }
    )

    text: Text
    kind: Kind = "passage"


class EmbeddingOutput(Frozen):
    """A vector of length 1: the inner product of two of the same model is the cosine of their texts. With `truncated`, the text
    was longer than the model takes and its end is not in the vector: split long documents into passages."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"vector": [0.6, -0.64, 0.48], "truncated": False}]})

    vector: tuple[float, ...] = Field(min_length=1)
    truncated: bool = False


class EmbeddingParams(Frozen):
    """`dimensions` asks for shorter vectors, of models that were trained to be cut (Matryoshka); null is all of them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"dimensions": 128}]})

    dimensions: int | None = Field(default=None, ge=1)


class EmbeddingTarget(Frozen):
    """What a query should find. `positives` are all passages that the file names for it, this row's own first; `negatives` are
    passages that look right and are not."""

    positives: tuple[Text, ...] = Field(min_length=1)
    negatives: tuple[Text, ...] = ()
    domain: str = ""


class TrainConfig(EncoderTrainConfig):
    """How to train an embedding model by contrast: every other passage of the batch is wrong for a query.

    A large `batch_size` is worth more than anything else here. `accumulation` divides it: a query then sees the passages of its
    part of the batch alone."""

    pretrained: bool = False
    """Take the encoder as it is: no rows, no training."""
    pooling: Pooling = "mean"
    """The vector of a text is the mean of its tokens' states, or that of the first token: as the encoder was trained."""
    query_prefix: str = ""
    """Put before queries, such as "query: "; again, as the encoder was trained."""
    passage_prefix: str = ""
    temperature: float = Field(default=0.05, gt=0)
    """Divides cosines before their softmax; less looks harder at the nearest wrong passages."""
    symmetric: bool = True
    """Choose the query for each passage as well, not just the passage for each query."""
    dimensions: Sizes = ()
    """Sizes that vectors may be cut to, trained along with the whole ones (Matryoshka)."""
    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=64, ge=1)


class SavedEmbedder(SavedEncoder):
    """What an artifact's manifest keeps of an embedding model."""

    pooling: Pooling = "mean"
    query_prefix: str = ""
    passage_prefix: str = ""
    temperature: float = 0.05
    symmetric: bool = True
    dimensions: tuple[int, ...] = ()
