"""Who may do what: the one table of RPCs, and which models a key may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

from taskloom.core.errors import PermissionDeniedError
from taskloom.core.types import Principal

PREDICT = "predict"
ADMIN = "admin"
AUDIT = "audit"
ROLES = (PREDICT, ADMIN, AUDIT)
"""Every role that a key may have."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call an RPC: a key with one of `roles`, or anybody if it is `open`."""

    roles: frozenset[str] = frozenset()
    open: bool = False


_OPEN = Rule(open=True)
_PREDICT = Rule(frozenset({PREDICT}))
_CATALOGUE = Rule(frozenset({PREDICT, ADMIN}))
_ADMIN = Rule(frozenset({ADMIN}))
_ANY_ROLE = Rule(frozenset(ROLES))

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "/taskloom.v1.Inference/Infer": _PREDICT,
        "/taskloom.v1.Inference/InferStream": _PREDICT,
        "/taskloom.v1.Inference/ListModels": _CATALOGUE,
        "/taskloom.v1.Inference/DescribeModel": _CATALOGUE,
        "/taskloom.v1.Knowledge/Search": _PREDICT,
        "/taskloom.v1.Knowledge/Ask": _PREDICT,
        "/taskloom.v1.Knowledge/AskStream": _PREDICT,
        "/taskloom.v1.Knowledge/Graph": _PREDICT,
        "/taskloom.v1.Knowledge/ListBases": _CATALOGUE,
        "/taskloom.v1.Knowledge/Stats": _CATALOGUE,
        "/taskloom.v1.Knowledge/ListVersions": _CATALOGUE,
        "/taskloom.v1.Knowledge/CreateBase": _ADMIN,
        "/taskloom.v1.Knowledge/DropBase": _ADMIN,
        "/taskloom.v1.Knowledge/Configure": _ADMIN,
        "/taskloom.v1.Knowledge/Upsert": _ADMIN,
        "/taskloom.v1.Knowledge/Delete": _ADMIN,
        "/taskloom.v1.Knowledge/Snapshot": _ADMIN,
        "/taskloom.v1.Knowledge/DropSnapshot": _ADMIN,
        "/taskloom.v1.Knowledge/Rollback": _ADMIN,
        "/grpc.health.v1.Health/Check": _OPEN,
        # A watch never ends: without a key, anybody could hold all the places there are.
        "/grpc.health.v1.Health/Watch": _ANY_ROLE,
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _ANY_ROLE,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _ANY_ROLE,
    }
)
"""Every RPC that may be called. What is not here is refused, even if a servicer for it is registered."""


def check_role(principal: Principal, wanted: frozenset[str], action: str) -> None:
    """Raises `PermissionDeniedError` unless the key has one of the roles."""
    if wanted.isdisjoint(principal.roles):
        has = ", ".join(sorted(principal.roles)) or "none"
        need = " or ".join(sorted(wanted))
        raise PermissionDeniedError(
            f"key {principal.name!r} may not {action}: its roles are {has}, and this needs {need}; "
            f"an administrator makes such a key with: taskloom key create NAME --role {min(wanted)}"
        )


class ModelAccess:
    """Which models a key may use. Decisions are remembered: patterns are matched once for each key and model."""

    def __init__(self, max_decisions: int = 4096) -> None:
        self._max_decisions = max_decisions
        self._decisions: dict[tuple[tuple[str, ...], str], bool] = {}

    def allows(self, principal: Principal, model: str) -> bool:
        patterns = principal.models
        known = self._decisions.get((patterns, model))
        if known is not None:
            return known
        allowed = any(fnmatchcase(model, pattern) for pattern in patterns)
        if len(self._decisions) >= self._max_decisions:
            # Callers choose the names that they ask for; starting afresh bounds what they can make us remember.
            self._decisions.clear()
        self._decisions[patterns, model] = allowed
        return allowed

    def check(self, principal: Principal, model: str) -> None:
        """Raises `PermissionDeniedError`, which says the same whether or not there is such a model."""
        if not self.allows(principal, model):
            raise PermissionDeniedError(
                f"key {principal.name!r} may not use model {model!r}; it may use: {', '.join(principal.models) or 'none'}"
            )
