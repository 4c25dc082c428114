"""Call Taskloom from Python: over gRPC with `Client` and `AsyncClient`, or in process with `local()`.

    from taskloom.sdk import Client

    with Client("127.0.0.1:50051") as client:
        print(client.classify("My card has not arrived", model="intent-en").label)

Importing it brings gRPC and pydantic, and no machine-learning library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskloom.core.errors import AlreadyExistsError as AlreadyExistsError
    from taskloom.core.errors import ConfigError as ConfigError
    from taskloom.core.errors import DeadlineExceededError as DeadlineExceededError
    from taskloom.core.errors import InputTooLargeError as InputTooLargeError
    from taskloom.core.errors import InternalError as InternalError
    from taskloom.core.errors import InvalidInputError as InvalidInputError
    from taskloom.core.errors import MissingDependencyError as MissingDependencyError
    from taskloom.core.errors import ModelFailedError as ModelFailedError
    from taskloom.core.errors import NotFoundError as NotFoundError
    from taskloom.core.errors import OverloadedError as OverloadedError
    from taskloom.core.errors import PermissionDeniedError as PermissionDeniedError
    from taskloom.core.errors import RateLimitedError as RateLimitedError
    from taskloom.core.errors import TaskloomError as TaskloomError
    from taskloom.core.errors import UnauthenticatedError as UnauthenticatedError
    from taskloom.core.errors import UnavailableError as UnavailableError
    from taskloom.core.errors import UnsupportedError as UnsupportedError
    from taskloom.core.knowledge import Document as Document
    from taskloom.core.knowledge import Hit as Hit
    from taskloom.core.knowledge import Passage as Passage
    from taskloom.core.knowledge import VersionInfo as VersionInfo
    from taskloom.core.knowledge_calls import BaseInfo as BaseInfo
    from taskloom.core.knowledge_calls import GraphResult as GraphResult
    from taskloom.core.knowledge_calls import KnowledgeAnswer as KnowledgeAnswer
    from taskloom.core.knowledge_calls import SearchResult as SearchResult
    from taskloom.core.knowledge_calls import Source as Source
    from taskloom.core.knowledge_calls import Turn as Turn
    from taskloom.core.knowledge_calls import UpsertResult as UpsertResult
    from taskloom.core.types import InferResult as InferResult
    from taskloom.core.types import ModelDescription as ModelDescription
    from taskloom.core.types import ModelInfo as ModelInfo
    from taskloom.core.types import Timings as Timings
    from taskloom.sdk.aio import AsyncClient as AsyncClient
    from taskloom.sdk.client import Client as Client
    from taskloom.sdk.in_process import LocalClient as LocalClient
    from taskloom.sdk.in_process import local as local
    from taskloom.sdk.knowledge import AsyncKnowledge as AsyncKnowledge
    from taskloom.sdk.knowledge import Knowledge as Knowledge
    from taskloom.sdk.requests import BatchOptions as BatchOptions
    from taskloom.sdk.requests import CallOptions as CallOptions
    from taskloom.sdk.results import Answer as Answer
    from taskloom.sdk.results import AnswerResult as AnswerResult
    from taskloom.sdk.results import ClassificationResult as ClassificationResult
    from taskloom.sdk.results import Entity as Entity
    from taskloom.sdk.results import ItemResult as ItemResult
    from taskloom.sdk.results import LabelScore as LabelScore
    from taskloom.sdk.results import NerResult as NerResult
    from taskloom.sdk.results import Reason as Reason
    from taskloom.sdk.results import Recommendation as Recommendation
    from taskloom.sdk.results import RecommendResult as RecommendResult
    from taskloom.sdk.results import SummaryResult as SummaryResult
    from taskloom.sdk.results import SummarySentence as SummarySentence
    from taskloom.sdk.results import VisionResult as VisionResult
    from taskloom.sdk.retries import RetryPolicy as RetryPolicy
    from taskloom.sdk.text_streams import AsyncTextStream as AsyncTextStream
    from taskloom.sdk.text_streams import TextStream as TextStream

_ERRORS = (
    "AlreadyExistsError",
    "ConfigError",
    "DeadlineExceededError",
    "InputTooLargeError",
    "InternalError",
    "InvalidInputError",
    "MissingDependencyError",
    "ModelFailedError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "RateLimitedError",
    "TaskloomError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
)
_RESULTS = (
    "Answer",
    "AnswerResult",
    "ClassificationResult",
    "Entity",
    "ItemResult",
    "LabelScore",
    "NerResult",
    "Reason",
    "RecommendResult",
    "Recommendation",
    "SummaryResult",
    "SummarySentence",
    "VisionResult",
)
_KNOWLEDGE = ("BaseInfo", "GraphResult", "KnowledgeAnswer", "SearchResult", "Source", "Turn", "UpsertResult")
_HOMES = {
    **dict.fromkeys(_ERRORS, "taskloom.core.errors"),
    **dict.fromkeys(("InferResult", "ModelDescription", "ModelInfo", "Timings"), "taskloom.core.types"),
    **dict.fromkeys(_RESULTS, "taskloom.sdk.results"),
    **dict.fromkeys(("Document", "Hit", "Passage", "VersionInfo"), "taskloom.core.knowledge"),
    **dict.fromkeys(_KNOWLEDGE, "taskloom.core.knowledge_calls"),
    **dict.fromkeys(("AsyncKnowledge", "Knowledge"), "taskloom.sdk.knowledge"),
    "AsyncClient": "taskloom.sdk.aio",
    "AsyncTextStream": "taskloom.sdk.text_streams",
    "BatchOptions": "taskloom.sdk.requests",
    "CallOptions": "taskloom.sdk.requests",
    "Client": "taskloom.sdk.client",
    "LocalClient": "taskloom.sdk.in_process",
    "RetryPolicy": "taskloom.sdk.retries",
    "TextStream": "taskloom.sdk.text_streams",
    "local": "taskloom.sdk.in_process",
}
__all__ = [
    "AlreadyExistsError",
    "Answer",
    "AnswerResult",
    "AsyncClient",
    "AsyncKnowledge",
    "AsyncTextStream",
    "BaseInfo",
    "BatchOptions",
    "CallOptions",
    "ClassificationResult",
    "Client",
    "ConfigError",
    "DeadlineExceededError",
    "Document",
    "Entity",
    "GraphResult",
    "Hit",
    "InferResult",
    "InputTooLargeError",
    "InternalError",
    "InvalidInputError",
    "ItemResult",
    "Knowledge",
    "KnowledgeAnswer",
    "LabelScore",
    "LocalClient",
    "MissingDependencyError",
    "ModelDescription",
    "ModelFailedError",
    "ModelInfo",
    "NerResult",
    "NotFoundError",
    "OverloadedError",
    "Passage",
    "PermissionDeniedError",
    "RateLimitedError",
    "Reason",
    "RecommendResult",
    "Recommendation",
    "RetryPolicy",
    "SearchResult",
    "Source",
    "SummaryResult",
    "SummarySentence",
    "TaskloomError",
    "TextStream",
    "Timings",
    "Turn",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
    "UpsertResult",
    "VersionInfo",
    "VisionResult",
    "local",
]


def __getattr__(name: str) -> Any:
    """Imports a name's home when it is first used, so that the command-line tool starts without gRPC."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
