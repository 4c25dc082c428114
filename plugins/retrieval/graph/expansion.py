"""From the names in a question over the graph to passages.

The names are where activation starts; it goes on along relations, weaker with each (spreading activation: Collins and Loftus,
"A spreading-activation theory of semantic processing", 1975). A passage is worth what its entities bring, each weighed by how
few passages it stands in (node specificity: Gutiérrez et al., "HippoRAG", NeurIPS 2024, section 2.3; here as a logarithm).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from taskloom.core.errors import NotFoundError
from taskloom.core.knowledge import Passage
from taskloom.core.knowledge_graph import GraphMention, GraphRelation, Neighbourhood
from taskloom.plugins.retrieval.config import KnowledgeConfig
from taskloom.plugins.retrieval.filters import Ints
from taskloom.plugins.retrieval.graph.names import Spoken, names_asked, normalised
from taskloom.plugins.retrieval.graph.tables import GraphTables, MentionRow, RelationRow
from taskloom.plugins.retrieval.state import Mask

DECAY = 0.5
"""What is left of an entity's activation at the other end of a relation that is certain. Chosen, not fitted."""
MOST_MENTIONS = 2000
"""An entity that stands in more passages tells none of them from the others: it is passed over."""


@dataclass(frozen=True)
class Expansion:
    """The graph of one version. `rows` [slots] are the passages' rows in the database, ascending."""

    tables: GraphTables
    config: KnowledgeConfig
    version: int
    rows: Ints

    def scores(self, text: str, entities: Sequence[str], mask: Mask) -> dict[int, float]:
        """What the graph leads to from a question, among the slots that may be found: by slot, how strongly. A name counts
        once, whatever labels it was given."""
        activations = self._activated(self._asked(text, entities), mask)
        same: dict[str, list[int]] = {}
        for entity, (name, _) in sorted(self.tables.entities(list(activations)).items()):
            same.setdefault(name, []).append(entity)
        found: dict[int, float] = {}
        for rows in same.values():
            slots = self._standing(rows, mask)
            if slots:
                worth = max(activations[row] for row in rows) * math.log(1 + mask.count / len(slots))
                for slot in slots:
                    found[slot] = found.get(slot, 0.0) + worth
        return found

    def _standing(self, entities: Sequence[int], mask: Mask) -> list[int]:
        """The slots in which one of some entities stands; none where there are too many."""
        limit = MOST_MENTIONS + 1
        several = [self.tables.mentions(row, self.version, self.config.graph_score, limit) for row in entities]
        mentions = [one for found in several for one in found]
        if len(mentions) > MOST_MENTIONS:
            return []
        slots = self._slots([one.passage for one in mentions], mask)
        return [int(slot) for slot in np.unique(slots[slots >= 0])]

    def _asked(self, text: str, entities: Sequence[str]) -> list[int]:
        forms = {*Spoken(text).forms, *map(normalised, entities)}
        known = self.tables.named(sorted(forms), self.version)
        return [row for name in names_asked(text, entities, known) for row in known[name]][: self.config.graph_neighbours]

    def _activated(self, seeds: Sequence[int], mask: Mask) -> dict[int, float]:
        """The entities that are reached, and how strongly: from each at most `graph_neighbours` relations are followed, and by
        each hop at most so many entities are reached. A relation counts where its passage may be found."""
        activations = dict.fromkeys(seeds, 1.0)
        frontier = dict(activations)
        for _ in range(self.config.graph_hops):
            reached: dict[int, float] = {}
            for entity, activation in frontier.items():
                near = self._relations(entity)
                for one, slot in zip(near, self._slots([one.passage for one in near], mask), strict=True):
                    other = one.tail if one.head == entity else one.head
                    if slot >= 0 and other not in activations:
                        reached[other] = max(reached.get(other, 0.0), activation * DECAY * one.score)
            best = sorted(reached, key=lambda row: (-reached[row], row))[: self.config.graph_neighbours]
            frontier = {row: reached[row] for row in best}
            activations.update(frontier)
        return activations

    def _relations(self, entity: int) -> list[RelationRow]:
        return self.tables.relations(entity, self.version, self.config.graph_score, self.config.graph_neighbours)

    def _slots(self, passages: Sequence[int], mask: Mask) -> Ints:
        """The slots of some passages (rows); -1 for one that may not be found."""
        wanted = np.asarray(passages, np.int64)
        if not len(self.rows):
            return np.full(len(wanted), -1, np.int64)
        at = np.minimum(np.searchsorted(self.rows, wanted), len(self.rows) - 1)
        there = self.rows[at] == wanted
        return np.where(there if mask.allowed is None else there & mask.allowed[at], at, -1)

    # For people

    def neighbourhood(
        self, name: str, hops: int, limit: int, passages: Callable[[list[int]], Mapping[int, Passage]]
    ) -> Neighbourhood:
        """Where a name stands and what can be reached from it, with the passages that say so; `passages` reads some rows."""
        seeds = self.tables.named([normalised(name)], self.version).get(normalised(name), [])
        mentions = [one for seed in seeds for one in self.tables.mentions(seed, self.version, 0.0, limit)][:limit]
        if not mentions:
            raise NotFoundError(f"the graph has no entity named {name!r} in version {self.version}")
        relations = self._within(seeds, hops, limit)
        rows = list(dict.fromkeys([one.passage for one in mentions] + [one.passage for one, _ in relations]))
        seen, read_by = passages(rows), self.tables.models(rows)
        about = [one.entity for one in mentions] + [row for one, _ in relations for row in (one.head, one.tail)]
        names = self.tables.entities(list(dict.fromkeys(about)))
        return Neighbourhood(
            mentions=tuple(_mention(one, names, seen[one.passage], read_by[one.passage]) for one in mentions),
            relations=tuple(_relation(one, hop, names, seen[one.passage], read_by[one.passage]) for one, hop in relations),
        )

    def _within(self, seeds: Sequence[int], hops: int, limit: int) -> list[tuple[RelationRow, int]]:
        """At most `limit` relations, the nearest first, of one distance the surest first."""
        found: dict[int, tuple[RelationRow, int]] = {}
        frontier, visited = list(seeds), set(seeds)
        for hop in range(1, hops + 1):
            near = {one.row: one for entity in frontier for one in self.tables.relations(entity, self.version, 0.0, limit)}
            fresh = sorted((one for row, one in near.items() if row not in found), key=lambda one: (-one.score, one.row))
            found.update((one.row, (one, hop)) for one in fresh[: limit - len(found)])
            frontier = [
                row for row in dict.fromkeys(row for one in fresh for row in (one.head, one.tail)) if row not in visited
            ]
            frontier = frontier[:limit]
            visited.update(frontier)
        return list(found.values())


def _mention(one: MentionRow, names: Mapping[int, tuple[str, str]], passage: Passage, models: tuple[str, ...]) -> GraphMention:
    name, label = names[one.entity]
    return GraphMention(
        name=name,
        label=label,
        document_id=passage.document_id,
        passage_id=passage.passage_id,
        text=passage.text[one.start : one.end],
        start=passage.start + one.start,
        end=passage.start + one.end,
        score=one.score,
        models=models,
    )


def _relation(
    one: RelationRow, hop: int, names: Mapping[int, tuple[str, str]], passage: Passage, models: tuple[str, ...]
) -> GraphRelation:
    (head, head_label), (tail, tail_label) = names[one.head], names[one.tail]
    return GraphRelation(
        head=head,
        head_label=head_label,
        relation=one.label,
        tail=tail,
        tail_label=tail_label,
        hop=hop,
        document_id=passage.document_id,
        passage_id=passage.passage_id,
        score=one.score,
        models=models,
    )
