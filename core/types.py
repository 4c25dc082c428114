"""The types that cross from one layer to another: frozen, and closed to fields that nobody declared."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from taskloom.core.errors import InvalidInputError, TaskloomError, error_from_code

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
"""What models, plugins, tenants and keys may be called: safe as a folder, a metric label and a flag."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]

PRODUCTION = "production"
"""The alias that a request means when it names no version."""


class Frozen(BaseModel):
    """Base of every boundary type. Floats are finite: NaN and infinity are no answers, and JSON has no word for them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def new_request_id() -> str:
    return uuid.uuid4().hex


class ModelRef(Frozen):
    """A model and, perhaps, which version of it: `intent-en`, `intent-en@3`, `intent-en@candidate`."""

    name: Name
    version: str = Field(default=PRODUCTION, pattern=NAME_PATTERN)

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """
        >>> ModelRef.parse("intent-en@2").version
        '2'
        """
        name, _, version = text.partition("@")
        try:
            return cls(name=name, version=version or PRODUCTION)
        except ValueError as exc:
            raise InvalidInputError(
                f"{text!r} names no model; write NAME or NAME@VERSION, in lower-case letters, digits, '.', '_' and '-'",
                field="model",
            ) from exc

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Principal(Frozen):
    """Who asks. `models` are shell patterns; `("*",)` is every model."""

    name: Name
    tenant: Name = "default"
    key_id: str = ""
    roles: frozenset[str] = frozenset()
    models: tuple[str, ...] = ("*",)
    requests_per_s: float | None = Field(default=None, gt=0)


class InferCall(Frozen):
    """One input for one model, as the transport-free service takes it.

    `deadline_s` is absolute, on the `time.time()` clock, so that it means the same in every process.
    `idempotency_key` is the caller's: two calls of one principal that carry the same key are one request.
    `partials` asks for parts of the answer as the model writes them, on a transport that has room for them.
    """

    model: ModelRef
    input: Mapping[str, Any]
    params: Mapping[str, Any] = Field(default_factory=dict)
    typed_as: str = ""
    """The task whose typed message carried the input, and will carry the output; empty for JSON."""
    request_id: str = Field(default_factory=new_request_id, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    idempotency_key: str = Field(default="", max_length=128)
    priority: int = Field(default=0, ge=-100, le=100)
    deadline_s: float | None = None
    partials: bool = False


class Timings(Frozen):
    """Where the time of a request went, in seconds; `batch_size` is the number of requests it shared a batch with, itself
    included."""

    queue_s: float = Field(default=0.0, ge=0)
    compute_s: float = Field(default=0.0, ge=0)
    total_s: float = Field(default=0.0, ge=0)
    batch_size: int = Field(default=1, ge=1)


class InferResult(Frozen):
    """The answer to one call. `output` is the task's Output as JSON data."""

    request_id: str
    model: str
    version: str
    task: str
    output: Mapping[str, Any]
    timings: Timings = Timings()


class ErrorInfo(Frozen):
    """An error as data, for streams, files and processes."""

    code: str
    message: str
    retry_after_s: float | None = None
    field: str = ""
    """The path of the offending value, where there is one."""

    @classmethod
    def of(cls, error: TaskloomError) -> ErrorInfo:
        return cls(
            code=error.code,
            message=error.message,
            retry_after_s=getattr(error, "retry_after_s", None),
            field=getattr(error, "field", ""),
        )

    def to_error(self) -> TaskloomError:
        return error_from_code(self.code, self.message, self.retry_after_s, self.field)


class ModelInfo(Frozen):
    """What is known of a model without loading it. `aliases` are those that point at this version."""

    name: Name
    version: str
    task: str
    aliases: tuple[str, ...] = ()
    description: str = ""
    backbone: str = ""
    languages: tuple[str, ...] = ()
    licence: str = ""
    metrics: Mapping[str, float] = Field(default_factory=dict)
    size_bytes: int = 0
    ready: bool = False


class ModelDescription(Frozen):
    """`ModelInfo` and the JSON Schemas (2020-12) of what the model takes and gives, with examples."""

    info: ModelInfo
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any]
    params_schema: Mapping[str, Any]
    labels: tuple[str, ...] = ()
    examples: tuple[Mapping[str, Any], ...] = ()
    """Inputs worth trying on this model."""
