"""The users that a model knows: their names and what they chose before it was trained."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from taskloom.core.errors import ArtifactError


class KnownUsers:
    """Users by name. Immutable."""

    def __init__(self, histories: Iterable[tuple[str, tuple[str, ...]]] = ()) -> None:
        self._histories = tuple(histories)
        self._numbers = {name: number for number, (name, _) in enumerate(self._histories, start=1)}

    def __len__(self) -> int:
        return len(self._histories)

    def find(self, name: str) -> tuple[int, tuple[str, ...]]:
        """The user's number, from 1, and history, oldest first; 0 and nothing for somebody else."""
        number = self._numbers.get(name, 0)
        return number, self._histories[number - 1][1] if number else ()

    def save(self, path: Path) -> None:
        lines = (json.dumps({"user": user, "history": history}, ensure_ascii=False) for user, history in self._histories)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> KnownUsers:
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
            return cls((str(row["user"]), tuple(str(item) for item in row["history"])) for row in rows)
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ArtifactError(f"{path.name} is no list of users: {exc}") from exc
