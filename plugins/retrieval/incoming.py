"""What is put in, checked and brought into the form that the store and the catalog take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from taskloom.core.errors import ArtifactError, InvalidInputError
from taskloom.core.knowledge import Embedded, Prepared
from taskloom.core.knowledge_graph import Extraction
from taskloom.plugins.retrieval.changes import Revision
from taskloom.plugins.retrieval.dense import Floats, VectorSource
from taskloom.plugins.retrieval.filters import Ints
from taskloom.plugins.retrieval.state import NewPassages
from taskloom.plugins.retrieval.store import PassageStore
from taskloom.plugins.retrieval.view import unit_vector

ByPassage = Mapping[str, Mapping[str, Floats]]
"""A passage's vectors by space."""


def checked_vectors(prepared: Prepared, vectors: Sequence[Embedded], known: Mapping[str, int]) -> ByPassage:
    """The vectors by passage and space. Raises `InvalidInputError` for one too many, too few or misshapen; `known` has the
    dimensions of the spaces that there are, and the first vector of another space says its."""
    names = [passage.passage_id for passage in prepared.passages]
    found: dict[str, dict[str, Floats]] = {name: {} for name in names}
    documents = {document.document_id for document in prepared.documents}
    if len(found) < len(names):
        raise InvalidInputError("two passages have the same id; each needs one of its own", field="prepared.passages")
    for passage in prepared.passages:
        if passage.document_id not in documents:
            raise InvalidInputError(
                f"passage {passage.passage_id!r} is of document {passage.document_id!r}, which is not among the prepared ones",
                field="prepared.passages",
            )
    sizes = dict(known)
    for given in vectors:
        if given.passage_id not in found:
            raise InvalidInputError(
                f"there is a vector for {given.passage_id!r}, which is no prepared passage", field="vectors"
            )
        if given.space in found[given.passage_id]:
            raise InvalidInputError(f"passage {given.passage_id!r} has two vectors in space {given.space!r}", field="vectors")
        size = sizes.setdefault(given.space, max(1, np.asarray(given.vector).size))
        found[given.passage_id][given.space] = unit_vector(given.vector, size, given.space, "vectors")
    _all_or_none(prepared, found)
    return found


def _all_or_none(prepared: Prepared, found: ByPassage) -> None:
    """A language has an embedding model or hasn't: if one of its passages has a vector, so have all."""
    embedded = {passage.language for passage in prepared.passages if found[passage.passage_id]}
    missing = [one for one in prepared.passages if one.language in embedded and not found[one.passage_id]]
    if missing:
        raise InvalidInputError(
            f"{len(missing)} of {len(prepared.passages)} passages have no vector, such as {missing[0].passage_id!r}, and "
            f"others of language {missing[0].language or 'unknown'!r} have; embed all passages of a language, or none",
            field="vectors",
        )


def revisions(
    prepared: Prepared,
    vectors: ByPassage,
    spaces: Mapping[str, int],
    dtype: np.dtype[np.floating],
    extractions: Mapping[str, Extraction],
) -> list[Revision]:
    of_document: dict[str, list[int]] = {document.document_id: [] for document in prepared.documents}
    for at, passage in enumerate(prepared.passages):
        of_document[passage.document_id].append(at)
    return [
        Revision(
            document,
            [prepared.passages[at] for at in of_document[document.document_id]],
            [
                {
                    spaces[name]: vector.astype(dtype).tobytes()
                    for name, vector in vectors[prepared.passages[at].passage_id].items()
                }
                for at in of_document[document.document_id]
            ],
            extractions,
        )
        for document in prepared.documents
    ]


def new_passages(
    rows: Ints,
    documents: Ints,
    order: Sequence[str],
    *,
    tokens: Mapping[str, Sequence[str]],
    vectors: ByPassage,
    spaces: Mapping[str, int],
    store: PassageStore,
) -> NewPassages:
    """What the catalog grows by: passages as they were stored. `order` has their ids in the order of `rows`; `tokens` and
    `vectors` are by passage id. Raises `ArtifactError` if other passages are stored than were given."""
    if len(rows) != len(order) or len(documents) != len(order):
        raise ArtifactError(f"{len(rows)} passages came into the database where {len(order)} were put in; open it again")
    by_space: dict[str, tuple[list[int], list[Floats]]] = {}
    for place, name in enumerate(order):
        for space, vector in vectors[name].items():
            places, several = by_space.setdefault(space, ([], []))
            places.append(place)
            several.append(vector)
    brought = {}
    for space, (places, several) in by_space.items():
        chosen = np.array(places, np.int64)
        source = vector_source(store, spaces[space], rows[chosen], len(several[0]))
        stored: NDArray[np.float32] = np.stack(several).astype(store.dtype).astype(np.float32)
        brought[space] = (spaces[space], source, stored, chosen)
    return NewPassages(rows, documents, [tokens[name] for name in order], brought)


def vector_source(store: PassageStore, space: int, rows: Ints, dimensions: int) -> VectorSource:
    return VectorSource(rows, dimensions, lambda wanted: store.vectors(space, wanted))
