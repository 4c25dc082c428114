"""The hooks of the entry-point group `taskloom`.

A plugin is a module (or object) that an entry point of that group names. It implements any of these. Those that begin
with `register` are called once with a callable, do no work but registering, and import no ML library; the others say
themselves when they are called.

    import taskloom.core as taskloom

    @taskloom.hookimpl
    def register_tasks(register):
        register(MyTask())
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from taskloom.core.types import Frozen

if TYPE_CHECKING:
    from taskloom.core.knowledge import Document, Refused, RetrieverPlugin
    from taskloom.core.knowledge_calls import KnowledgeEngine
    from taskloom.core.knowledge_figures import AskedBase, KnowledgeFigures, KnownQuestion
    from taskloom.core.optimizer import OptimizerPlugin
    from taskloom.core.ports import AuditLog, InferenceEngine
    from taskloom.core.registry import Registry
    from taskloom.core.runtime import RuntimePlugin
    from taskloom.core.settings import Settings
    from taskloom.core.task import TaskPlugin

GROUP = "taskloom"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class CommandSpec(Frozen):
    """A command of the `taskloom` tool. `target` is `module:attribute` of a click command, imported when it is used."""

    name: str
    summary: str
    target: str


class RequestEvent(Frozen):
    """Something that happened to a request: `accepted`, `completed` or `failed`. Carries no payload."""

    kind: str
    request_id: str
    model: str
    version: str
    task: str
    principal: str
    tenant: str
    code: str = ""
    duration_s: float = 0.0
    facts: Mapping[str, Any] = {}


@hookspec
def register_tasks(register: Callable[[TaskPlugin[Any, Any, Any]], None]) -> None:
    """Register task plugins."""


@hookspec
def register_optimizers(register: Callable[[OptimizerPlugin], None]) -> None:
    """Register optimizer plugins."""


@hookspec
def register_runtimes(register: Callable[[RuntimePlugin], None]) -> None:
    """Register runtimes."""


@hookspec
def register_retrievers(register: Callable[[RetrieverPlugin], None]) -> None:
    """Register retrievers for knowledge bases."""


@hookspec
def register_commands(register: Callable[[CommandSpec], None]) -> None:
    """Register commands of the `taskloom` tool."""


@hookspec
def observe_request(event: RequestEvent) -> None:
    """Told of every request event, after the fact. Must return at once; what it raises is logged and ignored."""


@hookspec(firstresult=True)
def open_audit_log(settings: Settings) -> AuditLog | None:
    """Open the audit log, for layers that may not import the one that has it. The first answer counts."""


@hookspec(firstresult=True)
def open_local_engine(settings: Settings, registry: Registry) -> InferenceEngine | None:
    """Make an engine that serves in this process, not started yet. The first answer counts."""


@hookspec(firstresult=True)
def open_knowledge(settings: Settings, registry: Registry, engine: InferenceEngine) -> KnowledgeEngine | None:
    """Open the knowledge bases under the home folder. `engine` runs the models that embed and read; it may not have started
    yet. The first answer counts."""


@hookspec(firstresult=True)
def knowledge_models(settings: Settings, registry: Registry, tenant: str) -> Sequence[str] | None:
    """The models that the knowledge bases of a tenant use, NAME or NAME@VERSION, for who loads no others: those of the settings
    and those that its bases name. The first answer counts."""


@hookspec(firstresult=True)
def read_documents(paths: Sequence[Path]) -> Iterator[Document | Refused] | None:
    """Read files, and what is in folders, as documents, for layers that may not import what reads them. What can't be read is
    told and passed over. The first answer counts."""


@hookspec(firstresult=True)
def read_known_questions(path: Path) -> Sequence[KnownQuestion] | None:
    """Read a file of questions whose answers are known. Raises `DataError` for the first bad row. The first answer counts."""


@hookspec(firstresult=True)
def judge_knowledge(
    base: AskedBase, questions: Sequence[KnownQuestion], plot: Path | None, tell: Callable[[str], None]
) -> KnowledgeFigures | None:
    """Measure how well a base finds and answers; `plot` is where the risk-coverage curve is drawn, a PNG file. `tell` hears
    what is measured now. The first answer counts."""
