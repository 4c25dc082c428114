"""A knowledge base: the store, what is in memory of it, and one writer who replaces that as a whole."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from taskloom.core.errors import AlreadyExistsError, NotFoundError, UnavailableError, UnsupportedError, unknown_name
from taskloom.core.knowledge import Document, Embedded, KnowledgeBase, Passage, Prepared, Refused, VersionInfo, View
from taskloom.core.knowledge_graph import Extraction
from taskloom.plugins.retrieval.building import IndexBuilder
from taskloom.plugins.retrieval.changes import Revision, content_digest, document_digest
from taskloom.plugins.retrieval.filters import Bools, FactColumns
from taskloom.plugins.retrieval.graph.tables import NO_GRAPH, GraphTables, checked_extractions
from taskloom.plugins.retrieval.incoming import ByPassage, checked_vectors, new_passages, revisions
from taskloom.plugins.retrieval.schema import damaged
from taskloom.plugins.retrieval.state import Catalog, State
from taskloom.plugins.retrieval.store import PassageStore
from taskloom.plugins.retrieval.tokens import Tokenizer
from taskloom.plugins.retrieval.view import StoredView

logger = logging.getLogger(__name__)

Splitter = Callable[[Document], tuple[Document, Sequence[Passage]] | Refused]
"""Cleans a document and splits it into passages, or says why it can't."""
COMPACTS_AGAIN_S = 60.0
"""After a compaction that failed, for want of room say: not with every document that comes in."""


class StoredKnowledgeBase(KnowledgeBase):
    """Writers take turns; readers never wait for them. `_state` is the newest version, replaced at one stroke when a version is
    on stable storage; whoever searches holds on to the state that was there when it began."""

    def __init__(self, store: PassageStore, splitter: Splitter) -> None:
        self._store = store
        self._splitter = splitter
        self._tokenizer = Tokenizer()
        self._builder = IndexBuilder(store, self._tokenizer)
        self._columns = FactColumns(store)
        self._writing = threading.RLock()
        self._compacting = threading.Lock()
        self._compaction: threading.Thread | None = None
        self._compacts_from = 0.0
        self._pinning = threading.Lock()
        self._pins: Counter[int] = Counter()
        self._released: deque[int] = deque()
        self._closed = False
        self._behind = False
        try:
            self._state = self._reloaded(self._builder.open())
        except (ValueError, TypeError, LookupError, AssertionError) as exc:
            raise damaged(store.folder, exc) from exc
        self._dead = self._dead_now()

    # What goes in

    def prepare(self, documents: Sequence[Document], spaces: Mapping[str, str] | None = None) -> Prepared:
        given: dict[str, tuple[Document, Sequence[Passage]]] = {}
        refused: list[Refused] = []
        for document in documents:
            name = document.document_id
            if name in given:
                refused.append(Refused(document_id=name, reason="its id is given twice in one call; the first was taken"))
                continue
            split = self._splitter(document)
            if isinstance(split, Refused):
                refused.append(split)
            elif not any(passage.text.strip() for passage in split[1]):
                refused.append(Refused(document_id=name, reason="it has no text"))
            else:
                given[name] = (split[0], split[1])
        stored = {name: digest for name, digest, _ in self._store.live("document_id", list(given))}
        unchanged = {name for name, (document, _) in given.items() if stored.get(name) == document_digest(document)}
        unchanged -= self._store.without_vectors(list(unchanged), spaces or {})
        duplicates = self._duplicates(given, unchanged, set(stored))
        fresh = [name for name in given if name not in unchanged and name not in duplicates]
        return Prepared(
            documents=tuple(given[name][0] for name in fresh),
            passages=tuple(passage for name in fresh for passage in given[name][1]),
            unchanged=tuple(name for name in given if name in unchanged),
            duplicates=duplicates,
            refused=tuple(refused),
        )

    def _duplicates(
        self, given: Mapping[str, tuple[Document, Sequence[Passage]]], unchanged: set[str], stored: set[str]
    ) -> dict[str, str]:
        """Documents of new ids that say what another says: one that stays as it is, or one given too. A document that is stored
        under its id already is never passed over: its old text would go on answering."""
        contents = {name: content_digest(document) for name, (document, _) in given.items()}
        first: dict[str, str] = {}
        for name, _, content in sorted(self._store.live("content", list(set(contents.values())))):
            if name not in given or name in unchanged:
                first.setdefault(content, name)
        for name in (name for name in given if name in stored):
            first.setdefault(contents[name], name)
        duplicates: dict[str, str] = {}
        for name in (name for name in given if name not in stored):
            twin = first.setdefault(contents[name], name)
            if twin != name:
                duplicates[name] = twin
        return duplicates

    def put(self, prepared: Prepared, vectors: Sequence[Embedded]) -> int:
        return self._put(prepared, vectors, {})

    def put_extracted(self, prepared: Prepared, vectors: Sequence[Embedded], extractions: Sequence[Extraction]) -> int:
        self._check_graph()
        return self._put(prepared, vectors, checked_extractions(prepared, extractions))

    def _put(self, prepared: Prepared, vectors: Sequence[Embedded], extractions: Mapping[str, Extraction]) -> int:
        with self._writing:
            self._check_open()
            if not prepared.documents:
                return self._state.version
            by_passage = checked_vectors(prepared, vectors, {name: size for name, (_, size) in self._store.spaces().items()})
            spaces = self._spaces(by_passage)
            tokens = {passage.passage_id: self._tokenizer.tokens(passage.searchable) for passage in prepared.passages}
            stored = revisions(prepared, by_passage, spaces, self._store.dtype, extractions)
            version = self._store.put(stored)
            return self._followed(
                version, partial(self._grow, version, stored, tokens=tokens, vectors=by_passage, spaces=spaces)
            )

    def _grow(
        self,
        version: int,
        stored: Sequence[Revision],
        *,
        tokens: Mapping[str, Sequence[str]],
        vectors: ByPassage,
        spaces: Mapping[str, int],
    ) -> None:
        before = self._state
        rows, documents = self._store.catalog(int(before.catalog.rows[-1]) if len(before.catalog.rows) else 0)
        passages = [passage for document in stored for passage in document.passages]
        order = [passage.passage_id for passage in passages]
        new = new_passages(rows, documents, order, tokens=tokens, vectors=vectors, spaces=spaces, store=self._store)
        catalog = before.catalog.grown(new, half=self._store.dtype == np.float16)
        alive, languages = self._without_ended(before, version)
        languages.update(passage.language for passage in passages)
        self._publish(version, catalog, np.concatenate([alive, np.ones(len(rows), np.bool_)]), languages)

    def remove(self, document_ids: Sequence[str]) -> int:
        with self._writing:
            self._check_open()
            there = {name for name, _, _ in self._store.live("document_id", list(document_ids))}
            missing = [name for name in dict.fromkeys(document_ids) if name not in there]
            if missing:
                more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
                count = self._store.counts(self._state.version)[0]
                raise NotFoundError(f"no document named {missing[0]!r}{more}, among {count} documents; nothing was removed")
            if not document_ids:
                return self._state.version
            version = self._store.remove(list(dict.fromkeys(document_ids)))
            return self._followed(version, partial(self._shrink, version))

    def _shrink(self, version: int) -> None:
        self._publish(version, self._state.catalog, *self._without_ended(self._state, version))

    def _spaces(self, by_passage: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, int]:
        """The id of each space; new ones are entered."""
        known = {name: space for name, (space, _) in self._store.spaces().items()}
        for vectors in by_passage.values():
            for name, vector in vectors.items():
                if name not in known:
                    known[name] = self._store.add_space(name, len(vector))
        return known

    def _without_ended(self, state: State, version: int) -> tuple[Bools, Counter[str]]:
        """What is alive of a state, and its passages by language, without the documents that ended with a version."""
        ended = self._store.ended_at(version)
        languages = Counter(state.languages)
        languages.subtract(self._store.languages_of(ended))
        return state.alive & ~state.catalog.alive(ended), +languages

    # The graph

    @property
    def keeps_graph(self) -> bool:
        return self._store.graph is not None

    def known_extractions(self, passages: Sequence[Passage], models: Mapping[str, Sequence[str]]) -> Mapping[str, Extraction]:
        with self._writing:  # so that nothing is pruned between two looks
            return self._check_graph().known(passages, models)

    def _check_graph(self) -> GraphTables:
        if self._store.graph is None:
            raise UnsupportedError(NO_GRAPH)
        return self._store.graph

    # Versions

    def view(self, version: int | None = None) -> View:
        with self._pinning:
            self._check_open()
            newest = self._state
            number = newest.version if version is None else version
            if number != newest.version and number not in {info.number for info in self._store.versions()}:
                raise self._unknown(number)
            self._pinned()
            self._pins[number] += 1
        try:
            state = newest if number == newest.version else self._state_of(number, newest.catalog)
        except BaseException:
            self._released.append(number)
            raise
        return StoredView(state, self._store, self._tokenizer, partial(self._released.append, number))

    def _state_of(self, number: int, catalog: Catalog) -> State:
        documents, languages = self._store.documents_at(number), self._store.languages(number)
        found, made = (len(documents), sum(languages.values())), self._store.counts(number)
        if found != made:
            raise damaged(self._store.folder, f"version {number} has {found} documents and passages, and was made with {made}")
        return State(number, catalog, catalog.alive(documents), self._columns, languages)

    def _pinned(self) -> set[int]:
        """The versions that open views hold. Under the lock; a view that is closed only says so, since it may be closed by the
        garbage collector, in the middle of anything."""
        while self._released:
            number = self._released.popleft()
            self._pins[number] -= 1
            if not self._pins[number]:
                del self._pins[number]
        return set(self._pins)

    def versions(self) -> Sequence[VersionInfo]:
        return self._store.versions()

    def snapshot(self, name: str) -> VersionInfo:
        with self._writing:
            self._check_open()
            newest, *others = self._store.versions()
            for info in others:
                if info.name == name:
                    raise AlreadyExistsError(f"version {info.number} is called {name!r} already; choose another name")
            if newest.name and newest.name != name:
                raise AlreadyExistsError(f"version {newest.number} is kept already, as {newest.name!r}")
            self._store.name_version(newest.number, name)
            return newest.model_copy(update={"name": name})

    def drop_snapshot(self, name: str) -> VersionInfo:
        with self._writing:
            self._check_open()
            named = {info.name: info for info in self._store.versions() if info.name}
            if name not in named:
                raise unknown_name("snapshot", name, named)
            info = named[name].model_copy(update={"name": ""})
            self._store.name_version(info.number, None)
            self._dead = 0  # what it alone had may go as well
            self._compact_if_worth()
            return info

    def rollback(self, version: int) -> int:
        with self._writing:
            self._check_open()
            if version not in {info.number for info in self._store.versions()}:
                raise self._unknown(version)
            number = self._store.rollback(version)
            return self._followed(number, partial(self._go_back, number))

    def _go_back(self, number: int) -> None:
        catalog = self._state.catalog
        alive = catalog.alive(self._store.documents_at(number))
        self._publish(number, catalog, alive, self._store.languages(number))

    def _unknown(self, number: int) -> NotFoundError:
        kept = ", ".join(str(info.number) for info in reversed(self._store.versions()))
        return NotFoundError(f"there is no version {number}; there are: {kept}. A snapshot keeps a version for longer.")

    # What is in memory

    def _followed(self, version: int, follow: Callable[[], None]) -> int:
        """The version, which is on stable storage, once memory has it too. Where following the change fails, what is in memory
        is made anew of the store; where that fails as well, nothing is answered from what is behind any more."""
        try:
            follow()
        except BaseException as exc:
            if self._state.version != version:
                try:
                    self._state = self._reloaded(self._builder.reread(self._state.catalog))
                except BaseException:
                    self._behind = True
                    raise
            if not isinstance(exc, Exception):
                raise
            logger.exception("version %d is stored, and was read anew from the database", version)
        return version

    def _publish(self, version: int, catalog: Catalog, alive: Bools, languages: Mapping[str, int]) -> None:
        self._state = State(version, catalog, alive, self._columns, languages)
        self._compact_if_worth()

    def _compact_if_worth(self) -> None:
        config = self._store.config
        limit = max(config.delta_limit, int(config.delta_share * len(self._state.alive)))
        worth = self._state.catalog.unindexed > limit or self._dead_now() - self._dead > limit
        worth = worth and time.monotonic() >= self._compacts_from
        if worth and (self._compaction is None or not self._compaction.is_alive()):
            self._compaction = threading.Thread(target=self._compact_aside, name="knowledge-compaction", daemon=True)
            self._compaction.start()

    def _dead_now(self) -> int:
        return len(self._state.alive) - int(np.count_nonzero(self._state.alive))

    def _reloaded(self, catalog: Catalog) -> State:
        return self._state_of(self._store.newest(), catalog)

    def compact(self) -> None:
        with self._compacting:
            with self._writing:
                self._check_open()
                with self._pinning:  # a view that is taken later is of a version that is kept in any case
                    kept = {info.number for info in self._store.versions()} | self._pinned()
                self._store.prune(kept)
            records = self._builder.build(self._state.catalog)
            with self._writing:
                self._check_open()
                self._state = self._reloaded(self._builder.replace(records, self._state.catalog))
                self._dead = self._dead_now()

    def _compact_aside(self) -> None:
        try:
            self.compact()
        except UnsupportedError:
            logger.info("the knowledge base in %s was closed while it was compacted", self._store.folder.name)
        except Exception:
            self._compacts_from = time.monotonic() + COMPACTS_AGAIN_S
            logger.exception("the knowledge base in %s could not be compacted", self._store.folder.name)

    def _check_open(self) -> None:
        if self._closed:
            raise UnsupportedError("this knowledge base is closed; open it again")
        if self._behind:
            raise UnavailableError(
                "the last change is stored, but could not be read back, so that this knowledge base is out of date in memory; "
                "close it, and open it again"
            )

    def close(self) -> None:
        with self._writing:
            if self._closed:
                return
            self._closed = True
        if self._compaction is not None and self._compaction is not threading.current_thread():
            self._compaction.join()
        with self._compacting:
            self._store.close()
