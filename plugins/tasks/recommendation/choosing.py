"""From a user's vector to recommendations: the search among the items that are allowed, and why each was found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch.nn.functional import normalize

from taskloom.plugins.tasks.recommendation.catalogue import Catalogue
from taskloom.plugins.tasks.recommendation.index import ItemIndex
from taskloom.plugins.tasks.recommendation.known import Known
from taskloom.plugins.tasks.recommendation.schema import Reason, Recommendation, RecommendationOutput, RecommendationParams
from taskloom.plugins.tasks.recommendation.vectors import ItemVectors

REASON_SIMILARITY = 0.2
"""The least cosine of an item of the history that is named as a reason: below it two items have nothing in common that a
user would see."""

Vector = NDArray[np.float32]


class Choosing:
    """Chooses among the items of a catalogue by their vectors. Immutable."""

    def __init__(self, catalogue: Catalogue, vectors: ItemVectors) -> None:
        self._catalogue = catalogue
        self._index = ItemIndex(vectors.item.numpy())
        self._directions: Vector = normalize(vectors.item, dim=-1).numpy()

    def answer(self, vector: Vector, known: Known, wanted: RecommendationParams) -> RecommendationOutput:
        """What a user whose vector [D] and history are these is recommended."""
        named = [name for name in (*wanted.among, *wanted.exclude) if name not in self._catalogue.places]
        scores, places = self._index.search(vector, wanted.top_k, self._allowed(known.seen, wanted))
        reasons = self._reasons(places, known.history, wanted)
        return RecommendationOutput(
            items=tuple(
                Recommendation(
                    item=self._catalogue.items[place].item,
                    title=self._catalogue.items[place].title_in(wanted.language),
                    score=score,
                    reasons=why,
                )
                for score, place, why in zip(scores.tolist(), places.tolist(), reasons, strict=True)
            ),
            unknown=tuple(dict.fromkeys((*known.unknown, *named))),
        )

    def _allowed(self, seen: Sequence[int], wanted: RecommendationParams) -> NDArray[np.bool_]:
        """[items]: which may be recommended."""
        find = self._catalogue.places
        allowed = self._catalogue.matching(wanted.where, "params.where")
        allowed &= ~self._catalogue.matching_any(wanted.where_not, "params.where_not")
        if wanted.among:
            chosen = np.zeros_like(allowed)
            chosen[[find[name] for name in wanted.among if name in find]] = True
            allowed &= chosen
        allowed[[find[name] for name in wanted.exclude if name in find]] = False
        if not wanted.include_seen:
            allowed[list(seen)] = False
        return allowed

    def _reasons(
        self, places: NDArray[np.intp], history: Sequence[int], wanted: RecommendationParams
    ) -> list[tuple[Reason, ...]]:
        """For each recommended item those of the history that are most like it; itself is none."""
        others = np.array(history, dtype=np.intp)
        if not wanted.reasons or not len(others) or not len(places):
            return [()] * len(places)
        cosines = self._directions[places] @ self._directions[others].T
        cosines[places[:, None] == others] = -np.inf
        return [self._named(row, others, wanted) for row in cosines]

    def _named(self, cosines: Vector, others: NDArray[np.intp], wanted: RecommendationParams) -> tuple[Reason, ...]:
        alike = np.flatnonzero(cosines >= REASON_SIMILARITY)
        nearest = alike[np.lexsort((others[alike], -cosines[alike]))[: wanted.reasons]]
        return tuple(
            Reason(
                item=self._catalogue.items[others[i]].item,
                title=self._catalogue.items[others[i]].title_in(wanted.language),
                similarity=float(cosines[i]),
            )
            for i in nearest
        )
