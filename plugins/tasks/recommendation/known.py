"""What a recommender knows of an input: items of its catalogue, users and features that it was trained on, and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taskloom.plugins.tasks.recommendation.catalogue import Catalogue
from taskloom.plugins.tasks.recommendation.known_users import KnownUsers
from taskloom.plugins.tasks.recommendation.schema import RecommendationInput


@dataclass(frozen=True)
class Known:
    """What the model knows of an input: places of the history's latest items (oldest first) and of the whole of it, texts, the
    user, features; and what not."""

    history: list[int]
    seen: list[int]
    texts: list[str]
    user: int
    features: list[int]
    unknown: tuple[str, ...]


class Lookup:
    """What a model has met: its catalogue, its users, and its features as NAME=VALUE. Immutable."""

    def __init__(self, catalogue: Catalogue, users: KnownUsers, features: Sequence[str], max_history: int) -> None:
        self._catalogue = catalogue
        self._users = users
        self._features = {feature: number for number, feature in enumerate(features)}
        self._max_history = max_history

    def known(self, item: RecommendationInput) -> Known:
        """What of an input means something to this model. A like that is a title counts as the history's latest item."""
        number, before = self._users.find(item.user)
        unknown = [item.user] if item.user and not number else []
        given = set(item.history)
        titled = {text: self._catalogue.titled(text) for text in item.likes}
        places: list[int] = []
        for name in (*before, *item.history):
            place = self._catalogue.places.get(name)
            if place is not None:
                places.append(place)
            elif name in given:
                unknown.append(name)
        places += [place for place in titled.values() if place is not None]
        features = {f"{name}={value}": self._features.get(f"{name}={value}") for name, value in item.features.items()}
        unknown += [feature for feature, place in features.items() if place is None]
        # An item that was chosen twice counts once, at its latest place.
        latest = list(dict.fromkeys(reversed(places)))
        return Known(
            history=latest[: self._max_history][::-1],
            seen=latest,
            texts=[text for text, place in titled.items() if place is None],
            user=number,
            features=[place for place in features.values() if place is not None],
            unknown=tuple(dict.fromkeys(unknown)),
        )
