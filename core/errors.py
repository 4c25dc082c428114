"""Every error that Taskloom raises on purpose.

    TaskloomError
    ├── InvalidInputError            the request cannot be understood
    │   └── InputTooLargeError       ... or is larger than the limit
    ├── NotFoundError                a name that nothing answers to
    ├── AlreadyExistsError           a name that is taken
    ├── UnsupportedError             understood, but makes no sense here
    ├── ConfigError                  settings that cannot be used
    ├── DataError                    a training or batch file with bad rows
    ├── PluginError                  a plugin that breaks its contract
    ├── MissingDependencyError       an extra that is not installed
    ├── ArtifactError                a model version that cannot be trusted
    ├── GateRefusedError             a model version that lost more than the policy allows
    ├── UnauthenticatedError         no key, or a wrong one
    ├── PermissionDeniedError        a key that may not do this
    ├── ThrottledError               try again after `retry_after_s`
    │   ├── RateLimitedError         this key asks too often
    │   └── OverloadedError          the queue is full
    ├── DeadlineExceededError        the answer would come too late
    ├── RequestCancelledError        the caller went away
    ├── UnavailableError             try again: nothing is wrong with the request
    │   ├── ReplicaLostError         the process that had the request died
    │   └── AuditUnavailableError    no record can be written, so no answer may leave
    ├── AuditIntegrityError          the log is not what was written
    ├── ModelFailedError             this one input makes the model fail
    └── InternalError                a defect of Taskloom

Each class has a stable `code`; `ERRORS_BY_CODE` finds the class for a code, which is how an error that
was sent between processes becomes the same class again. Errors carry no HTTP or gRPC numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class TaskloomError(Exception):
    """The root. `str(error)` says what was asked, what exists and what to do; it is safe to show a caller."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.request_id: str | None = None

    @property
    def message(self) -> str:
        return str(self.args[0])

    def __str__(self) -> str:
        return self.message


class InvalidInputError(TaskloomError):
    """The request cannot be understood. `field` is the path of the offending value, such as `input.text`."""

    code = "invalid_input"

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.args = (message, field)
        self.field = field


class InputTooLargeError(InvalidInputError):
    """The request is larger than the limit that its message names."""

    code = "input_too_large"


class NotFoundError(TaskloomError):
    """A name that nothing answers to."""

    code = "not_found"


class AlreadyExistsError(TaskloomError):
    """A name that is taken."""

    code = "already_exists"


class UnsupportedError(TaskloomError):
    """The request is well formed, but this combination makes no sense; the message says why."""

    code = "unsupported"


class ConfigError(TaskloomError):
    """A setting that cannot be used; the message names the setting and where it came from."""

    code = "config"


class DataError(TaskloomError):
    """A data file with rows that cannot be used. `path` and `line` (from 1) say where."""

    code = "data"

    def __init__(self, message: str, path: str = "", line: int = 0) -> None:
        super().__init__(message)
        self.args = (message, path, line)
        self.path = path
        self.line = line


class PluginError(TaskloomError):
    """A plugin that breaks its contract; the message names the plugin and the part of the contract."""

    code = "plugin"


class MissingDependencyError(TaskloomError):
    """A package that an optional extra brings; the message is the exact install line."""

    code = "missing_dependency"


class ArtifactError(TaskloomError):
    """A model version that is incomplete, altered or of an unknown format."""

    code = "artifact"


class GateRefusedError(TaskloomError):
    """A model version whose comparison with its parent breaks the policy of `[gate]`; the message names each figure, what it
    is and what it may be."""

    code = "gate_refused"


class UnauthenticatedError(TaskloomError):
    """No key was sent, or the key is unknown, revoked or expired."""

    code = "unauthenticated"


class PermissionDeniedError(TaskloomError):
    """The key is known and may not do this."""

    code = "permission_denied"


class ThrottledError(TaskloomError):
    """Too much was asked; try again after `retry_after_s` seconds."""

    code = "throttled"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.args = (message, retry_after_s)
        self.retry_after_s = retry_after_s


class RateLimitedError(ThrottledError):
    """This key asks more often than its limit."""

    code = "rate_limited"


class OverloadedError(ThrottledError):
    """The queue is full; nothing was started."""

    code = "overloaded"


class DeadlineExceededError(TaskloomError):
    """The deadline passed before an answer was there."""

    code = "deadline_exceeded"


class RequestCancelledError(TaskloomError):
    """The caller went away before an answer was there."""

    code = "cancelled"


class UnavailableError(TaskloomError):
    """Nothing is wrong with the request; the service cannot answer it now."""

    code = "unavailable"


class ReplicaLostError(UnavailableError):
    """The replica that had the request died, and so did the ones that it was tried on again."""

    code = "replica_lost"


class AuditUnavailableError(UnavailableError):
    """The audit log cannot be written, so no answer may leave."""

    code = "audit_unavailable"


class AuditIntegrityError(TaskloomError):
    """The audit log is not what was written; the message names the first record that fails."""

    code = "audit_integrity"


class ModelFailedError(TaskloomError):
    """The model fails on this input; the other inputs of its batch were answered."""

    code = "model_failed"


class InternalError(TaskloomError):
    """A defect of Taskloom. The cause is in the server's log under the request id, not in the message."""

    code = "internal"


def _leaves_and_branches(root: type[TaskloomError]) -> Iterable[type[TaskloomError]]:
    yield root
    for child in root.__subclasses__():
        yield from _leaves_and_branches(child)


ERRORS_BY_CODE: dict[str, type[TaskloomError]] = {cls.code: cls for cls in _leaves_and_branches(TaskloomError)}


def error_from_code(code: str, message: str, retry_after_s: float | None = None, field: str = "") -> TaskloomError:
    """The error that `code` stands for, with what its class can tell besides; a code of a newer version becomes `InternalError`
    and keeps its name.

    >>> error_from_code("not_found", "no model named 'x'")
    NotFoundError("no model named 'x'")
    """
    cls = ERRORS_BY_CODE.get(code)
    if cls is None:
        return InternalError(f"{code}: {message}")
    if retry_after_s is not None and issubclass(cls, ThrottledError):
        return cls(message, retry_after_s)
    if issubclass(cls, InvalidInputError):
        return cls(message, field=field)
    return cls(message)


def unknown_name(kind: str, name: str, known: Iterable[str], remedy: str = "") -> NotFoundError:
    """The error for a name that nothing answers to: what was asked, what exists, what to do.

    >>> str(unknown_name("task", "clasification", ["classification", "ner"]))
    "no task named 'clasification'; did you mean 'classification'? There are: classification, ner."
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else "."
    listing = f" There are: {', '.join(names)}." if names else f" There is no {kind} yet."
    return NotFoundError(f"no {kind} named {name!r}{guess}{listing}{' ' + remedy if remedy else ''}")
