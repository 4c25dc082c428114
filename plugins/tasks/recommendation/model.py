"""The recommendation model: two towers, the items and their index, as the one surface that trainers and runtimes see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from taskloom.core.anatomy import SoftTarget
from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, UnsupportedError
from taskloom.core.task import Batch, Example, Outputs, SharedParts
from taskloom.plugins.backbones.loading import Backbone, load_backbone
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE
from taskloom.plugins.backbones.task_model import HEAD_FILE, EncoderTaskModel, read_head
from taskloom.plugins.tasks.recommendation.catalogue import Catalogue, Item
from taskloom.plugins.tasks.recommendation.choosing import Choosing
from taskloom.plugins.tasks.recommendation.known import Known, Lookup
from taskloom.plugins.tasks.recommendation.known_users import KnownUsers
from taskloom.plugins.tasks.recommendation.learning import Choices, ItemIds, Learning, rows_of
from taskloom.plugins.tasks.recommendation.relearning import choice_loss, cut_history
from taskloom.plugins.tasks.recommendation.schema import (
    RecommendationInput,
    RecommendationOutput,
    RecommendationParams,
    SavedRecommender,
    TowerConfig,
)
from taskloom.plugins.tasks.recommendation.towers import ItemTower, UserTower
from taskloom.plugins.tasks.recommendation.vectors import ItemVectors

ITEMS_FILE = "items.jsonl"
VECTORS_FILE = "vectors.safetensors"
USERS_FILE = "users.jsonl"
EMBEDDED_AT_ONCE = 32
NEIGHBOURS = 50
"""Items by whose texts a user's words are understood."""
SHARPNESS = 10.0
"""What the cosines of texts are multiplied by, before a softmax makes shares of them."""
WORDS_COUNT = 5
"""Items that a like in words counts as."""
WELL_KNOWN = 0.9
"""Of all items, the share that weighs less in a history than one that everybody knows."""


class TwoTowers(nn.Module):
    """Both towers, and `reading`, which compresses texts; the encoder's hidden states come in from outside. `ids` are those
    of a model in training.

    It is trained between `start_learning` and `settle` only: then the items' vectors are made, and towers that went on without
    them would rank worse, whatever is done to the encoder."""

    item: ItemTower
    user: UserTower
    reading: nn.Linear
    ids: ItemIds | None

    def __init__(self, reading: int, saved: SavedRecommender) -> None:
        super().__init__()
        self.item = ItemTower(reading + len(saved.values), saved.towers)
        self.user = UserTower(saved.towers, saved.users, len(saved.features))
        self.reading = nn.Linear(reading, saved.towers.reading)
        self.ids = None
        self.requires_grad_(False)

    def start_learning(self, ids: ItemIds) -> None:
        self.ids = ids
        for learning in (self.item, self.user, ids):
            learning.requires_grad_(True)

    def settle(self) -> None:
        self.ids = None
        self.requires_grad_(False)


class RecommendationModel(EncoderTaskModel[RecommendationInput, RecommendationOutput, RecommendationParams]):
    """A recommender. `build` makes a new one to train, `load` reads an artifact's; `with_items` and `without_items` give a
    model of the same towers with other items.

    Its encoder is not trained with it; optimizers may train that later, and that alone. A model in training has `learning`,
    which `settle` ends: it makes the vectors.
    """

    saved: SavedRecommender

    def __init__(
        self,
        parts: EncoderParts,
        head: TwoTowers,
        saved: SavedRecommender,
        *,
        catalogue: Catalogue,
        users: KnownUsers,
        vectors: ItemVectors,
    ) -> None:
        super().__init__(parts, head, saved)
        self.catalogue = catalogue
        self.users = users
        self.towers = head
        self.learning: Learning | None = None
        self._lookup = Lookup(catalogue, users, saved.features, saved.towers.max_history)
        self._values = {value: column for column, value in enumerate(saved.values)}
        self._take(vectors)

    def _take(self, vectors: ItemVectors) -> None:
        self.vectors = vectors
        self._told = vectors.item * vectors.weight
        self._choosing = Choosing(self.catalogue, vectors)

    # -- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        catalogue: Catalogue,
        *,
        towers: TowerConfig | None = None,
        backbone: str | Backbone = DEFAULT_BACKBONE,
        users: KnownUsers | None = None,
        features: Sequence[str] = (),
    ) -> RecommendationModel:
        """New towers with random weights, and vectors of zeros. Seed torch first for the same towers again."""
        towers = towers or TowerConfig()
        base = load_backbone(backbone, max_length=towers.max_length) if isinstance(backbone, str) else backbone
        base.model.requires_grad_(False)
        parts = EncoderParts.build(base, max_length=towers.max_length)
        users = users or KnownUsers()
        saved = SavedRecommender(
            **parts.fields(),
            catalogue=catalogue.config,
            towers=towers,
            values=tuple(sorted({value for item in catalogue.items for value in item.values()})),
            features=tuple(features),
            users=len(users),
        )
        nothing = ItemVectors(*(torch.zeros(len(catalogue), size) for size in (towers.dimensions, 1, towers.reading)))
        return cls(
            parts,
            TwoTowers(parts.hidden_size, saved),
            saved,
            catalogue=catalogue,
            users=users,
            vectors=nothing,
        )

    @classmethod
    def load(cls, artifact: Artifact, shared: SharedParts) -> RecommendationModel:
        """The model of an artifact; its backbone is the one in `shared` where that wants it."""
        try:
            saved = SavedRecommender.model_validate(dict(artifact.manifest.config))
        except ValueError as exc:
            raise ArtifactError(f"{artifact.name} has a manifest that is no recommender's: {exc}") from exc
        parts = EncoderParts.load(artifact, saved, shared)
        head = TwoTowers(parts.hidden_size, saved)
        read_head(head, artifact.path(HEAD_FILE))
        catalogue = Catalogue.load(artifact.path(ITEMS_FILE), saved.catalogue)
        users = KnownUsers.load(artifact.path(USERS_FILE)) if saved.users else KnownUsers()
        vectors = ItemVectors.load(artifact.path(VECTORS_FILE), len(catalogue), saved.towers)
        kept = saved.model_copy(update=parts.fields())
        return cls(parts, head, kept, catalogue=catalogue, users=users, vectors=vectors)

    def save_own(self, folder: Path) -> None:
        super().save_own(folder)
        self.vectors.save(folder / VECTORS_FILE)
        self.catalogue.save(folder / ITEMS_FILE)
        if self.saved.users:
            self.users.save(folder / USERS_FILE)

    # -- other items --------------------------------------------------------------------------------------------------

    def with_items(self, items: Sequence[Item]) -> RecommendationModel:
        """With more items. They have no id that was trained, so the item tower makes their vectors of text and attributes;
        an attribute value that it does not know tells it nothing, but can be filtered by."""
        catalogue = self.catalogue.adding(items)
        embedded = self.embed([item.text() for item in items])
        with torch.inference_mode():
            item, weight = self.towers.item(self.content(items, embedded))
            new = ItemVectors.rounded(item, weight, self._read(embedded))
        return self._changed(catalogue, self.vectors.followed_by(new))

    def without_items(self, ids: Sequence[str]) -> RecommendationModel:
        """Without some items: they are not recommended, and unknown in histories."""
        catalogue, kept = self.catalogue.removing(ids)
        return self._changed(catalogue, self.vectors.at(torch.from_numpy(kept)))

    def _changed(self, catalogue: Catalogue, vectors: ItemVectors) -> RecommendationModel:
        return RecommendationModel(self.parts, self.towers, self.saved, catalogue=catalogue, users=self.users, vectors=vectors)

    def remade(self, parts: EncoderParts) -> RecommendationModel:
        raise UnsupportedError(
            "a recommender's item tower and its items' texts are made with its own encoder's vectors, and what they were "
            f"learnt from is not kept; train a recommender on {parts.backbone.info.id!r}"
        )

    # -- texts --------------------------------------------------------------------------------------------------------

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [N, E] of texts from the backbone: its tokens' mean."""
        found = torch.zeros(len(texts), self.parts.hidden_size)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        with torch.inference_mode():
            for start in range(0, len(order), EMBEDDED_AT_ONCE):
                rows = order[start : start + EMBEDDED_AT_ONCE]
                read = self.parts.tokenizer.encode([texts[i] for i in rows])
                hidden = self.module.encoder(read.input_ids, read.token_type_ids, read.lengths)
                found[rows] = pooled(hidden, read.lengths).float()
        return found

    def pieces_read(self, examples: Sequence[Example[RecommendationInput]]) -> Tensor:
        """Those of the inputs' words and of the items' texts: users and new items are told of in the same words."""
        found = super().pieces_read(examples)
        read = self.parts.tokenizer.encode([item.text() for item in self.catalogue.items])
        return found + torch.bincount(read.input_ids, minlength=len(found))

    def learn_to_read(self, embedded: Tensor) -> None:
        """Sets how texts are compressed: the leading principal components of the items' embeddings [I, E]."""
        middle = embedded.mean(0)
        _, _, directions = torch.linalg.svd(embedded - middle, full_matrices=False)
        reading = self.towers.reading
        with torch.no_grad():
            reading.weight.zero_()
            reading.weight[: len(directions)] = directions[: reading.out_features]
            reading.bias.copy_(-(reading.weight @ middle))

    def _read(self, embedded: Tensor) -> Tensor:
        """Compressed texts [N, R] at length 1."""
        return normalize(self.towers.reading(embedded), dim=-1)

    def content(self, items: Sequence[Item], embedded: Tensor) -> Tensor:
        """What the item tower is told [N, C]: the text's embedding, then which attribute values the item has, scaled to
        length 1."""
        values = torch.zeros(len(items), len(self._values))
        for row, item in enumerate(items):
            columns = [self._values[value] for value in item.values() if value in self._values]
            values[row, columns] = 1 / max(1, len(columns)) ** 0.5
        return torch.cat([embedded, values], dim=-1)

    # -- the task model -----------------------------------------------------------------------------------------------

    def encode(self, inputs: Sequence[RecommendationInput]) -> Batch:
        return self._batch([self._lookup.known(item) for item in inputs])

    def _batch(self, known: Sequence[Known]) -> Batch:
        read = (
            self.parts.tokenizer.encode([text for row in known for text in row.texts]) if any(k.texts for k in known) else None
        )
        nothing = torch.zeros(0, dtype=torch.long)
        return {
            "input_ids": read.input_ids if read else nothing,
            "token_type_ids": read.token_type_ids if read else nothing,
            "lengths": read.lengths if read else nothing,
            "text_rows": rows_of([len(row.texts) for row in known]),
            "history": torch.tensor([place for row in known for place in row.history], dtype=torch.long),
            "history_rows": rows_of([len(row.history) for row in known]),
            "from_end": torch.cat([nothing, *(torch.arange(len(row.history) - 1, -1, -1) for row in known)]),
            "users": torch.tensor([row.user for row in known], dtype=torch.long),
            "features": torch.tensor([number for row in known for number in row.features], dtype=torch.long),
            "feature_rows": rows_of([len(row.features) for row in known]),
        }

    def prepare(self, inputs: Sequence[RecommendationInput], params: Sequence[RecommendationParams]) -> Batch:
        """`encode`, once it is certain that the items have what the filters name."""
        for wanted in params:
            self.catalogue.matching(wanted.where, "params.where")
            self.catalogue.matching_any(wanted.where_not, "params.where_not")
        return super().prepare(inputs, params)

    def finish(self, hidden: Tensor, batch: Batch) -> Outputs:
        """`user` [N, D]; `texts` [L, E], the embeddings of what users said in words, `text_counts` [N] of them each."""
        towers = self.towers
        weight = towers.user.out.weight
        table = self._told.to(weight.device, weight.dtype)
        texts = pooled(hidden, batch["lengths"]).to(weight.dtype)
        liked = self._liked(texts, table)
        history = torch.cat([table[batch["history"]], liked.repeat_interleave(WORDS_COUNT, dim=0)])
        rows = torch.cat([batch["history_rows"], batch["text_rows"].repeat_interleave(WORDS_COUNT)])
        from_end = torch.cat([batch["from_end"], torch.zeros_like(rows[len(batch["from_end"]) :])])
        known = {"users": batch["users"], "features": batch["features"], "owners": batch["feature_rows"]}
        user = towers.user(history, rows, from_end, **known)
        return {"user": user, "texts": texts, "text_counts": torch.bincount(batch["text_rows"], minlength=len(user))}

    def _liked(self, embedded: Tensor, table: Tensor) -> Tensor:
        """Texts as items of a history [L, D]: in the direction of the items whose texts are like them, each by its share, and
        with the weight of a well-known item."""
        texts = self.vectors.text.to(table.device, table.dtype)
        near = (self._read(embedded) @ texts.T).topk(min(NEIGHBOURS, len(texts)), dim=-1)
        shares = (SHARPNESS * near.values).softmax(-1)
        mixed = torch.einsum("lk,lkd->ld", shares, table[near.indices])
        found: Tensor = normalize(mixed, dim=-1) * table.norm(dim=-1).float().quantile(WELL_KNOWN).to(table.dtype)
        return found

    def decode(
        self, outputs: Outputs, inputs: Sequence[RecommendationInput], params: Sequence[RecommendationParams]
    ) -> list[RecommendationOutput]:
        vectors = outputs["user"].float().numpy()
        return [
            self._choosing.answer(vector, self._lookup.known(item), wanted)
            for vector, item, wanted in zip(vectors, inputs, params, strict=True)
        ]

    # -- training -----------------------------------------------------------------------------------------------------

    def collate(self, examples: Sequence[Example[RecommendationInput]]) -> Batch:
        """What `Learning` draws; once it has ended, what `relearning` does."""
        known = [self._lookup.known(example.input) for example in examples]
        if self.learning is not None:
            return self.learning.collate([Choices(row.history, row.user, row.features) for row in known])
        cuts = [cut_history(row.history) for row in known]
        texts = [[self.catalogue.items[place].text() for place in cut.in_words] for cut in cuts]
        told = [
            replace(row, history=cut.told, texts=text, user=0 if text else row.user)
            for row, cut, text in zip(known, cuts, texts, strict=True)
        ]
        return {
            **self._batch(told),
            "targets": torch.tensor([place for cut in cuts for place in cut.wanted], dtype=torch.long),
            "target_rows": rows_of([len(cut.wanted) for cut in cuts]),
            "chosen": torch.tensor([place for row in known for place in row.history], dtype=torch.long),
            "chosen_rows": rows_of([len(row.history) for row in known]),
        }

    def loss(self, batch: Batch) -> Tensor:
        if self.learning is not None:
            return self.learning.loss(batch)
        drawn = {name: batch[name] for name in ("targets", "target_rows", "chosen", "chosen_rows")}
        return choice_loss(self._scores(self.forward(batch)["user"]).float(), **drawn)

    def _scores(self, user: Tensor) -> Tensor:
        """Of every item [N, items]."""
        return user @ self.vectors.item.to(user.device, user.dtype).T

    def settle(self) -> None:
        """Ends the training: makes every item's vectors, which from now on are all that is known of its id."""
        learning = self.learning
        if learning is None:
            raise UnsupportedError("this recommender is finished: its items' vectors are made")
        with torch.inference_mode():
            item, weight = learning.ids.vectors(learning.item)
            text = self._read(learning.ids.content[:, : self.parts.hidden_size])
        self._take(ItemVectors.rounded(item, weight, text))
        self.learning = None
        self.towers.settle()

    def distillation_targets(self, outputs: Outputs) -> Mapping[str, SoftTarget]:
        """Scores of every item [N, items], the user's vector [N, D], and the vectors of a user's words [L, E]: the scores alone
        say little of how words are to be read, since the items that a text is most like are chosen before they are mixed."""
        user, texts = outputs["user"], outputs["texts"]
        items = tuple(item.item for item in self.catalogue.items)
        return {
            "logits": SoftTarget(self._scores(user), columns=items),
            "user": SoftTarget(user, "vectors"),
            "texts": SoftTarget(texts, "vectors", outputs["text_counts"]),
        }

    def blank_batch(self, tokens: int) -> dict[str, Any]:
        batch = super().blank_batch(tokens)
        nothing = torch.zeros(0, dtype=torch.long)
        one = torch.zeros(1, dtype=torch.long)
        rest = {"history": nothing, "history_rows": nothing, "from_end": nothing, "features": nothing, "feature_rows": nothing}
        return {**batch, **rest, "users": one, "text_rows": torch.zeros_like(batch["lengths"])}


def pooled(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The mean of each sequence's hidden states [T, H], at length 1: [N, H]."""
    owners = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
    sums = torch.zeros(len(lengths), hidden.shape[1], dtype=hidden.dtype, device=hidden.device).index_add(0, owners, hidden)
    return normalize(sums / lengths.unsqueeze(-1), dim=-1)
