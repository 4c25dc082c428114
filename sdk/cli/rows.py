"""Files of inputs: read a line, write a line, in order; go on where an earlier run ended."""

from __future__ import annotations

import fcntl
import json
import sys
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from taskloom.core.errors import DataError, DeadlineExceededError, InvalidInputError, TaskloomError
from taskloom.sdk.cli.failures import ExitCode, exit_code_for
from taskloom.sdk.cli.inputs import InputForm
from taskloom.sdk.cli.predict import row_of
from taskloom.sdk.results import ItemResult

if TYPE_CHECKING:
    from taskloom.sdk.cli.context import CliContext
    from taskloom.sdk.surface import SyncCalls

_ERROR_ROW = b'{"error":'
_STDIO = "-"


@dataclass(frozen=True, slots=True)
class Done:
    """What an earlier run left: whole rows, and those of them that are errors."""

    rows: int = 0
    failed: int = 0


def predict_rows(
    cli: CliContext,
    client: SyncCalls,
    model: str,
    source: Path,
    target: Path | None,
    *,
    form: InputForm,
    restart: bool,
    options: dict[str, Any],
) -> int:
    """Answers every row of `source` that `target` has no row for; returns the exit status."""
    if target is not None and target.exists() and source.exists() and target.samefile(source):
        raise InvalidInputError(f"{target} is what is read; name another file to write to", field="output")
    with ExitStack() as stack:
        lines = _nonblank(stack.enter_context(_opened(source)))
        to_file = target is not None and str(target) != _STDIO
        if target is not None and to_file:
            sink: BinaryIO = stack.enter_context(target.open("ab+"))
            done = take_up(sink, target, model, restart=restart)
        else:
            sink, done = sys.stdout.buffer, Done()
        skip(lines, done.rows, target)
        advance = stack.enter_context(_progress(cli, source, done.rows))
        rows, failed = done.rows, done.failed
        for item in answers(client, model, lines, source, form=form, options=options):
            _stop_if_pointless(item.error, rows, to_file)
            row = row_of(item)
            sink.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
            sink.flush()
            rows, failed = rows + 1, failed + (not item.ok)
            advance()
    facts = {"rows": rows, "failed": failed, "resumed": done.rows, "output": str(target)}
    if to_file and cli.as_json:
        cli.print_json(facts)
    elif to_file:
        kept = f", {done.rows} of them from before" if done.rows else ""
        cli.error_console.print(f"{rows} rows in {target}{kept}; {failed} failed", markup=False)
    return ExitCode.SOME_ROWS_FAILED if failed else ExitCode.OK


def take_up(sink: BinaryIO, path: Path, model: str, *, restart: bool) -> Done:
    """Locks the output, cuts off a last line that was torn, and counts what is there."""
    try:
        fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise InvalidInputError(f"{path} is being written by another `taskloom predict`", field="output") from exc
    if restart:
        sink.truncate(0)
        return Done()
    sink.seek(0)
    rows = failed = whole_bytes = 0
    for line in sink:
        if not line.endswith(b"\n"):
            break
        if rows == 0:
            _same_model(line, path, model)
        rows += 1
        failed += line.startswith(_ERROR_ROW)
        whole_bytes += len(line)
    sink.truncate(whole_bytes)
    sink.seek(whole_bytes)
    return Done(rows, failed)


def _same_model(line: bytes, path: Path, model: str) -> None:
    """Refuses to go on in a file that was never ours, or that another model began."""
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    ours = isinstance(row, dict) and ("error" in row or "output" in row)
    name = model.partition("@")[0]
    if not ours or row.get("model", name) != name:
        whose = f"answers of {row['model']}" if ours else "something else than answers"
        raise DataError(f"{path} holds {whose}; name another --output, or overwrite it with --restart", str(path), 1)


def skip(lines: Iterator[tuple[int, bytes]], count: int, target: Path | None) -> None:
    for done in range(count):
        if next(lines, None) is None:
            raise DataError(
                f"{target} has {count} rows and the input only {done}: they do not belong together; name another --output, "
                "or overwrite it with --restart",
                str(target),
            )


def answers(
    client: SyncCalls,
    model: str,
    lines: Iterator[tuple[int, bytes]],
    source: Path,
    *,
    form: InputForm,
    options: dict[str, Any],
) -> Iterator[ItemResult]:
    """One item per line, in order; a line that is not JSON in UTF-8, or that names a file that is not there, is an item with
    an error."""
    waiting: deque[TaskloomError | None] = deque()
    folder = Path() if str(source) == _STDIO else source.parent

    def inputs() -> Iterator[Any]:
        for number, line in lines:
            try:
                value = form.read_row(json.loads(line.decode()), folder)
            except ValueError as exc:
                form_asked = "UTF-8" if isinstance(exc, UnicodeDecodeError) else "JSON"
                waiting.append(DataError(f"line {number} of {source} is not {form_asked}: {exc}", str(source), number))
                continue
            except InvalidInputError as exc:
                waiting.append(exc)
                continue
            waiting.append(None)
            yield value

    for item in client.infer_many(model, inputs(), **options):
        while (bad := waiting.popleft()) is not None:
            yield ItemResult(0, error=bad)
        yield item
    for bad in waiting:
        yield ItemResult(0, error=bad)


def _stop_if_pointless(error: TaskloomError | None, rows: int, to_file: bool) -> None:
    """A server that is away is no row's fault: stop, so that the next run can do those rows."""
    if error is None or isinstance(error, DeadlineExceededError):
        return
    if exit_code_for(error) in {ExitCode.UNAVAILABLE, ExitCode.PERMISSION}:
        if to_file:
            told = f"{error.message} ({rows} rows are done; the same command goes on from there)"
            error.args = (told, *error.args[1:])
        raise error


def _nonblank(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    lines = ((number, line.removeprefix(BOM_UTF8) if number == 1 else line) for number, line in enumerate(stream, 1))
    return ((number, line) for number, line in lines if line.strip())


@contextmanager
def _opened(source: Path) -> Iterator[BinaryIO]:
    if str(source) == _STDIO:
        yield sys.stdin.buffer
        return
    try:
        stream = source.open("rb")
    except OSError as exc:
        raise DataError(f"{source} can't be read: {exc.strerror}", str(source)) from exc
    with stream:
        yield stream


@contextmanager
def _progress(cli: CliContext, source: Path, done: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr if that is a terminal."""
    if not sys.stderr.isatty() or str(source) == _STDIO:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with source.open("rb") as stream:
        total = sum(1 for line in stream if line.strip())
    columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=cli.error_console) as bar:
        task = bar.add_task("rows", total=total, completed=done)
        yield lambda: bar.advance(task)
