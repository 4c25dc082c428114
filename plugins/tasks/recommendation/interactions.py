"""Who chose what: reading interactions, and holding some out in a way that anybody can repeat. Imports no ML library."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from taskloom.core.errors import DataError
from taskloom.core.task import Example
from taskloom.plugins._shared.datasets import Row, read_rows
from taskloom.plugins.tasks.recommendation.catalogue import columns_of
from taskloom.plugins.tasks.recommendation.schema import HeldOut, RecommendationInput

PAIR_COLUMNS = ("user", "item", "time")
INPUT_COLUMNS = ("user", "history", "likes", "features")
USER_COLUMNS = (*INPUT_COLUMNS, "held", "cold")

Examples = Sequence[Example[RecommendationInput]]


def read_examples(path: Path) -> Iterator[Example[RecommendationInput]]:
    """One example per user, from either form of file.

    Pairs (`user`, `item`, perhaps `time`, in CSV, TSV or JSONL): a user's items become the history, in the order of `time`,
    else of the rows. Users (JSONL with `history`, perhaps `user`, `likes` and `features`): as they are; `held` are items that
    the user chose too and that recommendations should find, `cold` those of them that no history has. The target is a
    `HeldOut`.
    """
    columns = columns_of(path) if path.is_file() else []
    yield from _users(path) if "history" in columns else _pairs(path)


def _pairs(path: Path) -> Iterator[Example[RecommendationInput]]:
    histories: dict[str, list[tuple[Any, str]]] = {}
    lines: dict[str, int] = {}
    ordered: bool | None = None
    for row in read_rows(path, columns=PAIR_COLUMNS, required=("user", "item")):
        user, item = row.values["user"], row.values["item"]
        if not isinstance(user, str) or not isinstance(item, str):
            raise row.error("`user` and `item` are names and must be strings")
        time = _time(row)
        if ordered is not None and ordered != (time is not None):
            raise row.error("some rows have a `time` and others have none; give it to all or to none")
        ordered = time is not None
        histories.setdefault(user, []).append((time, item))
        lines.setdefault(user, row.line)
    for user, found in histories.items():
        chosen = sorted(found, key=lambda pair: pair[0]) if ordered else found
        items = list(dict.fromkeys(item for _, item in chosen))
        yield _example({"user": user, "history": items}, HeldOut(), str(path), lines[user])


def _time(row: Row) -> float | str | None:
    """Seconds or an ISO 8601 time, as text; what matters is the order."""
    raw = row.values.get("time")
    if raw is None or isinstance(raw, int | float):
        return raw
    try:
        return float(raw)
    except ValueError:
        raise row.error(f"`time` is {raw!r}; expected a number, such as seconds since 1970") from None


def _users(path: Path) -> Iterator[Example[RecommendationInput]]:
    for row in read_rows(path, columns=USER_COLUMNS, required=("history",)):
        given = {
            name: row.values[name] for name in ("user", "history", "likes", "features") if row.values.get(name) is not None
        }
        try:
            target = HeldOut(warm=row.values.get("held") or (), cold=row.values.get("cold") or ())
        except ValidationError as exc:
            raise row.error("`held` and `cold` must be lists of item ids") from exc
        yield _example(given, target, row.path, row.line)


def _example(values: Mapping[str, Any], target: HeldOut, path: str, line: int) -> Example[RecommendationInput]:
    try:
        return Example(input=RecommendationInput.model_validate(values), target=target, path=path, line=line)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        told = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise DataError(f"{path}, line {line}: {told}", path=path, line=line) from exc


def hold_out(examples: Examples, *, most: int = 5, seed: int = 13) -> list[Example[RecommendationInput]]:
    """Of each history without a target a quarter is held out, by chance, `most` items at most; a history of one item is left
    out. Users lose their names: a model that knows them would know what is held out. Other rows stay as they are."""
    found = []
    for example in examples:
        if example.target is not None and (example.target.warm or example.target.cold):
            found.append(example)
            continue
        history = list(dict.fromkeys(example.input.history))
        if len(history) < 2:
            continue
        drawn = random.Random(f"{seed}:{example.input.user}:{history}").sample(history, min(most, max(1, len(history) // 4)))
        left = tuple(item for item in history if item not in set(drawn))
        asked = example.input.model_copy(update={"history": left, "user": ""})
        found.append(example.model_copy(update={"input": asked, "target": HeldOut(warm=tuple(drawn))}))
    return found


@dataclass(frozen=True)
class SplitResult:
    """What was held out of how much."""

    users: int
    kept: int
    warm: int
    cold: int
    cold_items: int


def split(
    examples: Examples, folder: Path, *, per_user: int = 5, at_least: int = 20, cold_share: float = 0.025, seed: int = 13
) -> SplitResult:
    """Writes `fit.csv` (pairs to train on) and `held.jsonl` (every user with that history and what was held out of it) into
    `folder`.

    All choices of `cold_share` of the items are held out: items that nobody is known to have chosen. Of the other choices,
    `per_user` random ones of each user who has `at_least` so many. The same interactions and seed give the same files. Raises
    `DataError` if they would be written over the interactions.
    """
    for name in ("fit.csv", "held.jsonl"):
        target = (folder / name).resolve()
        if any(Path(path).resolve() == target for path in {example.path for example in examples}):
            raise DataError(f"{target} is what is to be split; name another folder", path=str(target))
    counts = Counter(item for example in examples for item in example.input.history)
    names = sorted(counts)
    cold = set(random.Random(f"{seed}:items").sample(names, round(cold_share * len(names))))
    folder.mkdir(parents=True, exist_ok=True)
    kept_in_all = warm_in_all = cold_in_all = users = 0
    with (
        (folder / "fit.csv").open("w", encoding="utf-8", newline="") as fit,
        (folder / "held.jsonl").open("w", encoding="utf-8") as held,
    ):
        writer = csv.writer(fit, lineterminator="\n")
        writer.writerow(("user", "item"))
        for example in examples:
            user = example.input.user
            visible = [item for item in example.input.history if item not in cold]
            new = [item for item in example.input.history if item in cold]
            drawn = random.Random(f"{seed}:{user}").sample(visible, per_user) if len(visible) >= max(at_least, per_user) else []
            kept = [item for item in visible if item not in set(drawn)]
            if not kept:
                continue
            writer.writerows((user, item) for item in kept)
            row = {"user": user, "history": kept, "held": drawn, "cold": new}
            held.write(json.dumps(row, ensure_ascii=False) + "\n")
            users, kept_in_all = users + 1, kept_in_all + len(kept)
            warm_in_all, cold_in_all = warm_in_all + len(drawn), cold_in_all + len(new)
    return SplitResult(users=users, kept=kept_in_all, warm=warm_in_all, cold=cold_in_all, cold_items=len(cold))
