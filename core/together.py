"""Several models asked at once: those that stand on one trunk are run in one pass."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from taskloom.core.errors import TaskloomError
from taskloom.core.predictor import Predictor
from taskloom.core.runtime import JoiningExecutor
from taskloom.core.task import Batch, Outputs

log = logging.getLogger(__name__)

Answers = list[BaseModel | TaskloomError]


@dataclass(frozen=True)
class Share:
    """What a batch asks of one predictor."""

    predictor: Predictor[Any, Any, Any]
    inputs: Sequence[BaseModel]
    params: Sequence[BaseModel]

    def alone(self) -> Answers:
        return self.predictor.predict(self.inputs, self.params)


def predict_together(shares: Sequence[Share]) -> list[Answers]:
    """For each share what its predictor gives, as if it had been asked alone. Whatever goes wrong in a pass of several is
    found out by asking each alone: so it stays with the input that is at fault."""
    groups: dict[Hashable, list[int]] = {}
    for place, share in enumerate(shares):
        branch = share.predictor.model.branch
        joins = branch is not None and share.inputs and isinstance(share.predictor.executor, JoiningExecutor)
        groups.setdefault(("trunk", id(branch.trunk)) if joins and branch is not None else place, []).append(place)
    answers: list[Answers] = [[] for _ in shares]
    for places in groups.values():
        asked = [shares[place] for place in places]
        found = _in_one_pass(asked) if len(asked) > 1 else [asked[0].alone()]
        for place, answer in zip(places, found, strict=True):
            answers[place] = answer
    return answers


def _in_one_pass(shares: Sequence[Share]) -> list[Answers]:
    encoded = [_encoded(share) for share in shares]
    ready = [place for place, batch in enumerate(encoded) if batch is not None]
    outputs: dict[int, Outputs] = {}
    if ready:
        executor = shares[ready[0]].predictor.executor
        assert isinstance(executor, JoiningExecutor)
        parts = [(shares[place].predictor.executor, batch) for place in ready if (batch := encoded[place]) is not None]
        try:
            outputs = dict(zip(ready, executor.run_together(parts), strict=True))
        except Exception as exc:
            log.warning("a pass of %d models failed (%s); each is run alone", len(parts), type(exc).__name__)
    return [_decoded(share, outputs.get(place)) for place, share in enumerate(shares)]


def _encoded(share: Share) -> Batch | None:
    try:
        return share.predictor.model.prepare(share.inputs, share.params)
    except Exception:
        return None


def _decoded(share: Share, outputs: Outputs | None) -> Answers:
    if outputs is None:
        return share.alone()
    try:
        return list(share.predictor.model.decode(outputs, share.inputs, share.params))
    except Exception:
        return share.alone()
