"""What is written of a request: its audit entries, and the events that observers see."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from taskloom.core.hookspecs import RequestEvent
from taskloom.core.ports import AuditEntry, PartSink
from taskloom.core.types import InferCall, Principal

NO_FACTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """Who asked what, as far as it is known when something is to be written about it."""

    principal: Principal
    request_id: str
    facts: Mapping[str, Any]
    model: str = ""
    version: str = ""
    task: str = ""
    action: str = "infer"

    def entry(
        self,
        kind: Literal["accepted", "completed", "failed", "event"],
        *,
        code: str = "",
        duration_s: float = 0.0,
        payload: Mapping[str, Any] | None = None,
        binary: tuple[str, ...] = (),
    ) -> AuditEntry:
        return AuditEntry(
            kind=kind,
            action=self.action,
            request_id=self.request_id,
            principal=self.principal.name,
            tenant=self.principal.tenant,
            key_id=self.principal.key_id,
            model=_storable(self.model),
            version=self.version,
            task=self.task,
            time_s=time.time(),
            duration_s=duration_s,
            code=code,
            payload=payload,
            binary=binary,
            facts=self.facts,
        )

    def event(self, kind: str, code: str = "", duration_s: float = 0.0) -> RequestEvent:
        return RequestEvent(
            kind=kind,
            request_id=self.request_id,
            model=self.model,
            version=self.version,
            task=self.task,
            principal=self.principal.name,
            tenant=self.principal.tenant,
            code=code,
            duration_s=duration_s,
            facts=self.facts,
        )


class SentParts:
    """The parts of an answer that leave before it is whole, kept for the record of an answer that never gets so far."""

    __slots__ = ("_send", "_texts")

    def __init__(self, send: PartSink) -> None:
        self._send = send
        self._texts: list[str] = []

    def send(self, text: str) -> None:
        self._texts.append(text)
        self._send(text)

    def payload(self) -> Mapping[str, Any] | None:
        """None if nothing has left."""
        return {"partial": "".join(self._texts)} if self._texts else None


def left(sent: SentParts | None) -> Mapping[str, Any] | None:
    """What had left of an answer that did not become whole; None where it was not to come in parts."""
    return sent.payload() if sent is not None else None


def _storable(name: str) -> str:
    """A name as a log can hold it: callers may ask for anything, a zero byte included."""
    return name if name.isprintable() else "".join(letter if letter.isprintable() else "\ufffd" for letter in name)


def asked(call: InferCall) -> Mapping[str, Any]:
    """The payload of `accepted`: the input and, where the call has parameters, these beside it."""
    return {"input": call.input, "params": call.params} if call.params else call.input
