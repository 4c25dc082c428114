"""What the tool says, and which status it exits with, when a command fails.

0    done
1    an error in the request, the data, the model or the settings
2    the command line can't be understood
3    the server can't be reached, is overloaded, or took too long
4    no permission: the key is missing, wrong, or may not do this
5    some rows failed; each has its error in the output
6    the gate refuses the model version: it lost more than the policy allows
130  interrupted (SIGINT)
141  whoever read the output went away (SIGPIPE)
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from enum import IntEnum

import click

from taskloom.core.errors import (
    DeadlineExceededError,
    GateRefusedError,
    InvalidInputError,
    PermissionDeniedError,
    RequestCancelledError,
    TaskloomError,
    ThrottledError,
    UnauthenticatedError,
    UnavailableError,
)
from taskloom.sdk.dependencies import missing_dependency


class ExitCode(IntEnum):
    """The statuses of the tool, as in the table above."""

    OK = 0
    ERROR = 1
    USAGE = 2
    UNAVAILABLE = 3
    PERMISSION = 4
    SOME_ROWS_FAILED = 5
    REFUSED = 6
    INTERRUPTED = 130
    BROKEN_PIPE = 141


def exit_code_for(error: TaskloomError) -> ExitCode:
    if isinstance(error, UnauthenticatedError | PermissionDeniedError):
        return ExitCode.PERMISSION
    if isinstance(error, UnavailableError | ThrottledError | DeadlineExceededError | RequestCancelledError):
        return ExitCode.UNAVAILABLE
    return ExitCode.REFUSED if isinstance(error, GateRefusedError) else ExitCode.ERROR


def report(exc: BaseException, *, as_json: bool, verbose: int) -> int:
    """Tells about the failure on stderr and returns the exit status."""
    if isinstance(exc, click.exceptions.Exit):
        return exc.exit_code
    if isinstance(exc, KeyboardInterrupt | click.Abort):
        _tell("interrupted", "interrupted", as_json=as_json)
        return ExitCode.INTERRUPTED
    if isinstance(exc, BrokenPipeError):
        _mute_stdout()
        return ExitCode.BROKEN_PIPE
    if isinstance(exc, click.ClickException):
        return _report_click(exc, as_json=as_json)
    error = (missing_dependency(exc) or exc) if isinstance(exc, ModuleNotFoundError) else exc
    if verbose:
        traceback.print_exception(exc)
    if isinstance(error, TaskloomError):
        facts = _facts(error)
        _tell(error.code, error.message, as_json=as_json, **facts)
        return exit_code_for(error)
    hint = "" if verbose else "; run `taskloom -v ...` for the traceback"
    _tell("internal", f"unexpected {type(exc).__name__}: {exc}{hint}", as_json=as_json)
    return ExitCode.ERROR


def _facts(error: TaskloomError) -> dict[str, str | float]:
    facts: dict[str, str | float] = {}
    if error.request_id:
        facts["request_id"] = error.request_id
    if isinstance(error, InvalidInputError) and error.field:
        facts["field"] = error.field
    if isinstance(error, ThrottledError):
        facts["retry_after_s"] = error.retry_after_s
    return facts


def _report_click(exc: click.ClickException, *, as_json: bool) -> int:
    if as_json:
        _tell("usage" if isinstance(exc, click.UsageError) else "error", exc.format_message(), as_json=True)
    else:
        exc.show()
    return exc.exit_code


def _tell(code: str, message: str, *, as_json: bool, **facts: str | float) -> None:
    if as_json:
        line = json.dumps({"error": {"code": code, "message": message, **facts}}, ensure_ascii=False)
    else:
        request = f" (request id {facts['request_id']})" if "request_id" in facts else ""
        line = f"error: {message}{request}"
    click.echo(line, err=True)


def _mute_stdout() -> None:
    """Points stdout at nothing, so that the interpreter's flush at exit does not fail again."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
