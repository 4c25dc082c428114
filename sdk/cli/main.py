"""The `taskloom` command-line tool: one root, and the commands that each layer and each plugin registers.

Commands are imported when they are used, so that `taskloom --help` needs no more than their names.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import click

from taskloom.core.errors import PluginError, TaskloomError
from taskloom.core.hookspecs import CommandSpec
from taskloom.core.openmp import wait_briefly
from taskloom.sdk.cli.context import CliContext
from taskloom.sdk.cli.failures import ExitCode, report
from taskloom.sdk.dependencies import missing_dependency

__all__ = ["CliContext", "ExitCode", "main", "root"]


class Root(click.Group):
    """A group whose commands come from the registry."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [spec.name for spec in ctx.ensure_object(CliContext).registry.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        shelf = ctx.ensure_object(CliContext).registry.commands
        return _import_command(shelf.get(cmd_name), shelf.owner(cmd_name)) if cmd_name in shelf else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-"):
            self._known(ctx, args[0])
        return super().resolve_command(ctx, args)

    def _known(self, ctx: click.Context, name: str) -> None:
        shelf = ctx.ensure_object(CliContext).registry.commands
        try:
            shelf.get(name)
        except TaskloomError as exc:
            raise click.UsageError(exc.message, ctx) from exc

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(spec.name, spec.summary) for spec in ctx.ensure_object(CliContext).registry.commands]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        words = list(args)
        ctx = super().make_context(info_name, args, parent, **extra)
        ctx.ensure_object(CliContext).as_json = _asks_for_json(words)
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as exc:  # click would end with 1 here, and people would look for the error
            ctx.exit(report(exc, as_json=False, verbose=0))
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs the command line and exits with an `ExitCode`, or with the status that the command returned. Without
        `standalone_mode` errors are raised instead."""
        words = list(sys.argv[1:] if args is None else args)
        if not standalone_mode:
            return super().main(words, prog_name, complete_var, False, **extra)
        # click turns an error into its own exit code before anyone can look at it: take errors here, and decide here.
        try:
            status = super().main(words, prog_name, complete_var, False, **extra)
        except (Exception, KeyboardInterrupt) as exc:
            status = report(exc, as_json=_asks_for_json(words), verbose=_verbosity(words))
        sys.exit(status if isinstance(status, int) else ExitCode.OK)


def _import_command(spec: CommandSpec, owner: str) -> click.Command:
    """Imports what a specification names; raises `MissingDependencyError` or `PluginError`."""
    module, _, attribute = spec.target.partition(":")
    try:
        command = getattr(import_module(module), attribute)
    except ModuleNotFoundError as exc:
        raise missing_dependency(exc) or _broken(spec, owner, exc) from exc
    except TaskloomError:
        raise
    except Exception as exc:
        raise _broken(spec, owner, exc) from exc
    if not isinstance(command, click.Command):
        raise PluginError(f"command {spec.name!r} of {owner} is a {type(command).__name__}; it must be a click command")
    return command


def _broken(spec: CommandSpec, owner: str, exc: Exception) -> PluginError:
    return PluginError(f"command {spec.name!r} of {owner} can't be imported from {spec.target}: {type(exc).__name__}: {exc}")


def _asks_for_json(words: Sequence[str]) -> bool:
    """Whether `--json` is there as an option: any command may have it, and errors come before it is parsed."""
    options = words[: words.index("--")] if "--" in words else words
    return "--json" in options


def _verbosity(words: Sequence[str]) -> int:
    """How often `-v` stands before the command's name."""
    count = 0
    for word in words:
        if word == "--verbose":
            count += 1
        elif word.startswith("-v") and set(word[1:]) == {"v"}:
            count += len(word) - 1
    return count


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"taskloom {metadata.version('taskloom')}")
        ctx.exit()


@click.command(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 error, 2 usage, 3 server unavailable, 4 no permission, 5 some rows failed, 6 refused by the "
    "gate, 130 interrupted.",
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version.")
@click.option("--config", type=click.Path(path_type=Path), help="Settings file, instead of ./taskloom.toml.")
@click.option("--home", type=click.Path(path_type=Path), help="Where state lives, instead of ~/.taskloom.")
@click.option("-v", "--verbose", count=True, help="Tell more: tracebacks and log lines; twice for even more.")
@click.pass_context
def root(ctx: click.Context, config: Path | None, home: Path | None, verbose: int) -> None:
    """Train a task, shrink it, prove that it is still good, serve it, and account for every answer."""
    cli = ctx.ensure_object(CliContext)
    cli.config, cli.home, cli.verbose = config, home, verbose
    if verbose:
        logging.basicConfig(level=logging.INFO if verbose == 1 else logging.DEBUG, format="%(levelname)s %(name)s: %(message)s")


def main(args: Sequence[str] | None = None) -> None:
    """The console script. Does not return.

    >>> main(["--version"])
    Traceback (most recent call last):
    SystemExit: 0
    """
    wait_briefly()
    root.main(args, prog_name="taskloom")


if __name__ == "__main__":
    main()
