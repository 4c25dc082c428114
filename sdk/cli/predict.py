"""`taskloom predict`: one text, several, or a file of inputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskloom.core.errors import InvalidInputError
from taskloom.sdk.cli.endpoint import gateway_options, json_option, open_gateway, open_in_process
from taskloom.sdk.cli.failures import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

    from taskloom.sdk.cli.context import CliContext
    from taskloom.sdk.cli.inputs import Asked, InputForm
    from taskloom.sdk.results import ItemResult
    from taskloom.sdk.surface import SyncCalls


@click.command()
@click.argument("model")
@click.argument("words", nargs=-1, metavar="[TEXT | FIELD=VALUE]...")
@click.option("--input", "source", type=click.Path(path_type=Path, allow_dash=True), help="JSON Lines; - is stdin.")
@click.option("--output", "target", type=click.Path(path_type=Path, allow_dash=True), help="JSON Lines; left out, stdout.")
@click.option("--restart", is_flag=True, help="Begin the output anew instead of going on where it ends.")
@click.option("--param", "params", multiple=True, metavar="KEY=VALUE", help="A parameter of the task; repeatable.")
@click.option("--version", "version", help="A version or alias instead of production.")
@click.option("--priority", type=int, default=0, help="-100 to 100; higher goes first.")
@click.option("--timeout", "timeout_s", type=float, default=60.0, show_default=True, help="Seconds for each input.")
@click.option("--concurrency", type=click.IntRange(1), default=32, show_default=True, help="Inputs under way at a time.")
@click.option("--local", "in_process", is_flag=True, help="Run the model in this process; needs taskloom[local].")
@gateway_options
@json_option
@click.pass_obj
def predict(
    cli: CliContext,
    /,
    *,
    model: str,
    words: tuple[str, ...],
    source: Path | None,
    target: Path | None,
    restart: bool,
    params: tuple[str, ...],
    version: str | None,
    priority: int,
    timeout_s: float,
    concurrency: int,
    in_process: bool,
    **gateway: Any,
) -> int:
    """Ask MODEL (NAME or NAME@VERSION) for each TEXT, for one input of several fields, or for each line of --input.

    \b
    taskloom predict intent-en "I lost my card" "Where is my refund?"
    taskloom predict qa-en question="Who built it?" context=@page.txt
    taskloom predict recommend-anime history=20 history=5 likes="space opera"
    taskloom predict vision-fashion shirt.png shoe.jpg

    FIELD is one of the model's input fields. @FILE stands for what a file holds, @- for stdin; a text that begins with @ is
    written @@. Lists take a word for each item, or JSON; other fields that are no texts take JSON. A model whose one input is
    a file takes bare paths.

    Lines of --input are JSON objects as the model's input schema says (`taskloom models show MODEL --json`), or strings; where
    that asks for bytes they may name a file: {"image": "@shirt.png"}. The output has one line for each, but for blank ones, in
    the same order: {"output": ...} or {"error": ...}. A run that was interrupted goes on where its output ends. Exit status 5
    says that some rows failed.
    """
    from taskloom.sdk.cli.inputs import InputForm

    _check_usage(words, source, target, in_process, gateway)
    options = {
        "params": parse_params(params),
        "version": version,
        "priority": priority,
        "max_concurrency": concurrency,
    }
    asked = model if version is None else f"{model}@{version}"
    client: SyncCalls = open_in_process(cli, [asked], timeout_s) if in_process else open_gateway(timeout_s, **gateway)
    with client:
        form = InputForm.of(client.describe(asked))
        if source is None:
            return _answer_words(cli, client, model, words, form=form, options=options)
        from taskloom.sdk.cli.rows import predict_rows

        return predict_rows(cli, client, model, source, target, form=form, restart=restart, options=options)


def parse_params(pairs: Sequence[str], option: str = "--param") -> dict[str, Any]:
    """KEY=VALUE; a value that reads as JSON is that, any other is a string.

    >>> parse_params(["top_k=3", "language=zh"])
    {'top_k': 3, 'language': 'zh'}
    """
    params: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise InvalidInputError(f"{option} {pair!r} is not KEY=VALUE", field=option.strip("-"))
        try:
            params[name] = json.loads(value)
        except ValueError:
            params[name] = value
    return params


def _check_usage(
    words: Sequence[str], source: Path | None, target: Path | None, in_process: bool, gateway: dict[str, Any]
) -> None:
    if bool(words) == (source is not None):
        raise click.UsageError("give one or more TEXTs, FIELD=VALUE words, or --input FILE")
    if target is not None and source is None:
        raise click.UsageError("--output goes with --input; without it use --json and redirect")
    if in_process and any(gateway.values()):
        raise click.UsageError("--local asks no gateway; leave out --address and its certificates, or --local")


def _answer_words(
    cli: CliContext, client: SyncCalls, model: str, words: Sequence[str], *, form: InputForm, options: dict[str, Any]
) -> int:
    asked = form.read_words(words)
    items = list(client.infer_many(model, [one.input for one in asked], **options))
    if len(items) == 1 and items[0].error is not None:
        raise items[0].error
    rows = [{"input": one.told, **row_of(item)} for one, item in zip(asked, items, strict=True)]
    cli.show({"results": rows}, lambda: _shown(form, asked, items))
    return ExitCode.OK if all(item.ok for item in items) else ExitCode.SOME_ROWS_FAILED


def row_of(item: ItemResult) -> dict[str, Any]:
    """An item as JSON data: what it gave, or `error`."""
    if item.result is not None:
        return item.result.model_dump(mode="json")
    error = item.error
    assert error is not None
    facts = {"code": error.code, "message": error.message}
    if isinstance(error, InvalidInputError) and error.field:
        facts["field"] = error.field
    if error.request_id:
        facts["request_id"] = error.request_id
    return {"error": facts}


def _shown(form: InputForm, asked: Sequence[Asked], items: Sequence[ItemResult]) -> RenderableType:
    from rich.text import Text

    from taskloom.sdk.cli.render import conversation, show_answer, show_input

    return conversation(
        [
            (
                show_input({**one.input, **one.files}, form.kinds, item.result),
                Text(item.error.message, style="red") if item.error else show_answer(item.value(), one.input),
            )
            for one, item in zip(asked, items, strict=True)
        ]
    )
