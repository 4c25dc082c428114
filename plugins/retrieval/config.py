"""What a user may set when a knowledge base is created. It is kept in the knowledge base and does not change."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field, model_validator

from taskloom.core.knowledge_graph import MAX_HOPS
from taskloom.core.types import Frozen
from taskloom.plugins.retrieval.documents.splitting import SplitConfig


class KnowledgeConfig(Frozen):
    """How passages are kept and found. The defaults are those that the benchmarks chose."""

    passage_size: int = Field(default=SplitConfig().size, ge=8)
    """Tokens (estimated) that a passage is filled up to by whole sentences."""

    passage_maximum: int = Field(default=SplitConfig().maximum, ge=8)
    """Tokens of the longest passage: tables, code and sentences up to this length stay whole."""

    passage_overlap: int = Field(default=SplitConfig().overlap, ge=0)
    """Tokens of the passage before that are said again, by whole sentences, where a paragraph is cut."""

    dtype: Literal["float16", "float32"] = "float16"
    """How vectors are stored. Half precision costs no recall that could be measured, and half the space."""

    keep_versions: int = Field(default=10, ge=1)
    """How many of the newest versions can be viewed and gone back to; named ones are kept besides."""

    index: Literal["auto", "flat", "hnsw", "ivf", "ivf-rabitq"] = "auto"
    """The kind of dense index; `auto` chooses by the number of vectors."""

    flat_limit: int = Field(default=20_000, ge=0)
    """Up to here `auto` searches exactly."""

    hnsw_limit: int = Field(default=200_000, ge=0)
    """Up to here `auto` takes HNSW; beyond, `ivf-rabitq`, which is built faster and is a tenth as large."""

    delta_limit: int = Field(default=4_000, ge=0)
    """How many passages may be outside the index files (searched exactly, at some cost) before they are built anew; from
    `delta_share` of the indexed ones on, where that is more."""

    delta_share: float = Field(default=0.1, ge=0)

    recall: float = Field(default=0.99, gt=0, le=1)
    """The recall@10 against the exact search that an index's search effort is set for when it is built."""

    depth: int = Field(default=100, ge=1)
    """How many candidates of each search are fused."""

    fusion: Literal["scores", "ranks"] = "scores"
    """How the searches become one order: by the weighted mean of their scores, or by the reciprocals of their ranks."""

    rrf_k: int = Field(default=60, ge=0)
    """The constant of reciprocal-rank fusion (`ranks`)."""

    dense_weight: float = Field(default=0.4, ge=0)
    sparse_weight: float = Field(default=0.6, ge=0)
    """What the searches weigh in the fusion: chosen on English questions, the same for recall@5 from 0.4 to 0.5 of dense."""

    graph: bool = False
    """Whether names and their relations are extracted from passages, and lead to passages besides."""

    graph_weight: float = Field(default=0.1, ge=0)
    """Of the graph's scores in the fusion. What was measured, 0.1 to 0.5, made no difference that could be told from chance."""

    graph_hops: int = Field(default=1, ge=0, le=MAX_HOPS)
    """How many relations away from the question's names passages are looked for; 0: where these names stand."""

    graph_neighbours: int = Field(default=32, ge=1, le=1000)
    """How many relations of an entity are followed, and how many entities a hop reaches."""

    graph_score: float = Field(default=0.5, ge=0, le=1)
    """Names and relations that their model was less sure of lead nowhere."""

    def passages(self) -> SplitConfig:
        return SplitConfig(size=self.passage_size, maximum=self.passage_maximum, overlap=self.passage_overlap)

    @model_validator(mode="after")
    def _passages_fit(self) -> KnowledgeConfig:
        self.passages()
        return self


def stored_config(text: str) -> KnowledgeConfig:
    """What `create` wrote. Bases from before there was a choice fuse ranks, as they always have."""
    return KnowledgeConfig.model_validate({"fusion": "ranks", **json.loads(text)})
