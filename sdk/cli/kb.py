"""`taskloom kb`: knowledge bases, on a server or in this process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskloom.sdk.cli.kb_options import Endpoint, asks, parse_where, version_option, where_option

if TYPE_CHECKING:
    from taskloom.sdk.cli.context import CliContext

MODES = ("hybrid", "dense", "sparse", "graph")


@click.group()
def kb() -> None:
    """Create, fill, ask and roll back knowledge bases."""


# -- bases -----------------------------------------------------------------------------------------------------------------


@kb.command()
@click.argument("base")
@click.option("--shared", is_flag=True, help="Every tenant may ask it.")
@click.option("--retriever", default="", help="The plugin that keeps it, instead of the built-in one.")
@click.option("--config", "config", multiple=True, metavar="KEY=VALUE", help="A setting of the retriever; repeatable.")
@asks()
def create(
    cli: CliContext,
    endpoint: Endpoint,
    *,
    base: str,
    shared: bool,
    retriever: str,
    config: tuple[str, ...],
) -> None:
    """Create BASE, empty."""
    from taskloom.sdk.cli.predict import parse_params

    settings = parse_params(config, "--config")
    with endpoint.open() as client:
        info = client.create_knowledge(base, shared=shared, retriever=retriever, config=settings)
    cli.show(info, lambda: f"{info.base} is there; fill it with: taskloom kb add {info.base} PATH...")


@kb.command("list")
@asks()
def list_bases(cli: CliContext, endpoint: Endpoint) -> None:
    """List the knowledge bases that you may ask."""
    from taskloom.sdk.cli.kb_render import bases_table

    with endpoint.open() as client:
        bases = client.knowledge_bases()
    cli.show({"bases": bases}, lambda: bases_table(bases))


@kb.command()
@click.argument("base")
@asks()
def stats(cli: CliContext, endpoint: Endpoint, *, base: str) -> None:
    """Show what BASE holds and how it is indexed."""
    from taskloom.sdk.cli.kb_render import base_shown

    with endpoint.open() as client:
        info = client.knowledge(base).stats()
    cli.show(info, lambda: base_shown(info))


@kb.command()
@click.argument("base")
@click.option("--reranker", default="", metavar="MODEL", help="Scores question and passage together; none if left out.")
@click.option("--candidates", type=click.IntRange(1, 100), help="Passages that it scores.  [default: 20]")
@click.option("--writer", default="", metavar="MODEL", help="Writes the answer from the passages; none if left out.")
@click.option("--param", "params", multiple=True, metavar="KEY=VALUE", help="A parameter of the writer's task; repeatable.")
@click.option("--prompt", help="What the writer reads, with {question} and {passages}.")
@click.option("--passage", help="How a passage stands in it, with {text} and, if wanted, {number} and {title}.")
@click.option("--passage-characters", type=click.IntRange(100, 100_000), help="What passages may take.  [default: 4000]")
@click.option("--threshold", type=click.FloatRange(0, 1), help="No answer below this confidence; else the server's.")
@asks()
def configure(
    cli: CliContext, endpoint: Endpoint, *, base: str, reranker: str, writer: str, params: tuple[str, ...], **given: Any
) -> None:
    """Say how questions to BASE are answered from now on. What is left out goes back to its default.

    \b
    taskloom kb configure handbook --reranker rank-en --candidates 30
    taskloom kb configure handbook --writer answers-en --param max_tokens=80
    """
    from taskloom.sdk.cli.kb_render import base_shown
    from taskloom.sdk.cli.predict import parse_params

    settings = parse_params(params, "--param")
    with endpoint.open(reranker, writer) as client:
        info = client.knowledge(base).configure(reranker=reranker, writer=writer, params=settings, **given)
    cli.show(info, lambda: base_shown(info))


@kb.command()
@click.argument("base")
@click.option("--yes", is_flag=True, help="Don't ask.")
@asks()
def drop(cli: CliContext, endpoint: Endpoint, *, base: str, yes: bool) -> None:
    """Remove BASE with all it holds, every version. There is no way back."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("a base that is dropped is gone: give --yes")
        click.confirm(f"remove {base} with all it holds?", abort=True, err=True)
    with endpoint.open() as client:
        client.drop_knowledge(base)
    cli.show({"base": base, "dropped": True}, lambda: f"{base} is gone")


# -- documents -------------------------------------------------------------------------------------------------------------


@kb.command()
@click.argument("base")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, allow_dash=True, path_type=Path))
@click.option("--batch", type=click.IntRange(1), default=200, show_default=True, help="Documents for each new version.")
@asks(timeout_s=600.0)
def add(
    cli: CliContext,
    endpoint: Endpoint,
    *,
    base: str,
    paths: tuple[Path, ...],
    batch: int,
) -> int:
    """Put the documents of files and folders into BASE, in place of those with the same ids.

    \b
    taskloom kb add handbook manual.md faq.csv pages/
    taskloom kb add handbook documents.jsonl

    JSON Lines have a document in each row: {"document_id": "wifi", "text": "..."}, and, where there is more to say, "title",
    "question", "language", "source" and "metadata"; - is stdin. Files of other kinds are read by the retrieval plugin of
    taskloom[local]. What has not changed is not embedded again, so that a run that broke off goes on where it was. Exit status
    5 says that some documents were passed over.
    """
    from taskloom.sdk.cli.kb_add import add_documents

    with endpoint.open() as client:
        return add_documents(cli, client.knowledge(base), paths, batch, endpoint.timeout_s)


@kb.command()
@click.argument("base")
@click.argument("document_ids", nargs=-1, required=True, metavar="DOCUMENT_ID...")
@asks()
def remove(
    cli: CliContext,
    endpoint: Endpoint,
    *,
    base: str,
    document_ids: tuple[str, ...],
) -> None:
    """Take documents out of BASE: all of those named, or none."""
    with endpoint.open() as client:
        version = client.knowledge(base).delete(document_ids)
    told = {"base": base, "version": version, "removed": len(document_ids)}
    cli.show(told, lambda: f"{len(document_ids)} documents are out; {base} is at version {version}")


# -- questions -------------------------------------------------------------------------------------------------------------


@kb.command()
@click.argument("base")
@click.argument("query")
@click.option("--limit", type=click.IntRange(1, 100), default=10, show_default=True, help="Passages to show.")
@click.option("--mode", type=click.Choice([*MODES, "reranked"]), default="hybrid", show_default=True)
@where_option
@version_option
@asks()
def search(
    cli: CliContext,
    endpoint: Endpoint,
    *,
    base: str,
    query: str,
    limit: int,
    mode: Any,
    where: tuple[str, ...],
    version: int | None,
) -> None:
    """Find the passages of BASE for QUERY: by meaning (dense), by words (sparse), by both (hybrid), by these and its graph, or
    in the order that its re-ranker gives those that a question is answered from (reranked)."""
    from taskloom.sdk.cli.kb_render import hits_shown

    with endpoint.open() as client:
        handle = client.knowledge(base)
        result = handle.search(query, limit=limit, mode=mode, where=parse_where(where), version=version)
    cli.show(result, lambda: hits_shown(result))


@kb.command()
@click.argument("base")
@click.argument("question")
@click.option("--turn", "turns", nargs=2, multiple=True, metavar="QUESTION ANSWER", help="What was said before; repeatable.")
@click.option("--passages", type=click.IntRange(1, 20), default=5, show_default=True, help="Passages to read.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="No answer below this confidence.")
@click.option("--mode", type=click.Choice(MODES), help="How to find passages; else graph if BASE keeps one, else hybrid.")
@click.option("--stream", "streamed", is_flag=True, help="Show what a writer writes while it does.")
@where_option
@version_option
@asks()
def ask(
    cli: CliContext,
    endpoint: Endpoint,
    *,
    base: str,
    question: str,
    turns: tuple[tuple[str, str], ...],
    passages: int,
    threshold: float | None,
    mode: Any,
    streamed: bool,
    where: tuple[str, ...],
    version: int | None,
) -> None:
    """Answer QUESTION from BASE, with the sources of the answer; or say that nothing in it is sure enough."""
    from taskloom.sdk.cli.kb_render import answer_shown, behind_answer
    from taskloom.sdk.cli.render import plain

    options: dict[str, Any] = {"passages": passages, "threshold": threshold, "mode": mode, "version": version}
    options |= {"turns": turns, "where": parse_where(where)}
    with endpoint.open() as client:
        handle = client.knowledge(base)
        if not streamed:
            answer = handle.ask(question, **options)
            cli.show(answer, lambda: answer_shown(answer))
            return
        with handle.ask_stream(question, **options) as stream:
            for piece in stream:
                if not cli.as_json:
                    click.echo(plain(piece), nl=False)
            whole = stream.result()
    if stream.text and not cli.as_json:
        click.echo()
    cli.show(whole, lambda: behind_answer(whole) if stream.text else answer_shown(whole))


@kb.command()
@click.argument("base")
@click.argument("entity")
@click.option("--hops", type=click.IntRange(1, 2), default=1, show_default=True, help="How many relations away.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="Mentions and relations to show.")
@version_option
@asks()
def graph(
    cli: CliContext,
    endpoint: Endpoint,
    *,
    base: str,
    entity: str,
    hops: int,
    limit: int,
    version: int | None,
) -> None:
    """Show what the graph of BASE knows of ENTITY: where it stands, and what it is related to."""
    from taskloom.sdk.cli.kb_render import graph_shown

    with endpoint.open() as client:
        found = client.knowledge(base).graph(entity, hops=hops, limit=limit, version=version)
    cli.show(found, lambda: graph_shown(found))


@kb.command("eval")
@click.argument("base")
@click.argument("questions", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--build", is_flag=True, help="Put the paragraphs of a file in SQuAD's form in first, and say how fast they went."
)
@click.option("--sample", type=click.IntRange(1), help="Ask so many of the questions, the same ones each time.")
@click.option("--passages", type=click.IntRange(1, 20), default=5, show_default=True, help="Passages to read for an answer.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw risk and coverage into this PNG file.")
@version_option
@asks()
def evaluate(
    cli: CliContext,
    endpoint: Endpoint,
    *,
    base: str,
    questions: Path,
    build: bool,
    sample: int | None,
    passages: int,
    plot: Path | None,
    version: int | None,
) -> None:
    """Measure how well BASE finds and answers QUESTIONS, whose answers are known: dense, sparse and hybrid side by side,
    and the graph and the re-ranked order of a base that has them.

    \b
    taskloom kb eval handbook questions.jsonl --plot risk.png
    taskloom kb create squad --local
    taskloom kb eval squad dev.json --build --sample 500 --local

    QUESTIONS are JSON Lines of {"question": "...", "answers": ["..."], "document": "wifi"}, of which only the question has to
    be there, or a file in SQuAD's form. A passage is right if it is of that document (lies in that paragraph) and holds one of
    the answers; a question with none of these has no answer, and any that is given is wrong.
    """
    from taskloom.sdk.cli.kb_eval import evaluate_base

    with endpoint.open() as client:
        handle = client.knowledge(base)
        options: dict[str, Any] = {"build": build, "sample": sample, "passages": passages, "version": version, "plot": plot}
        evaluate_base(cli, handle, questions, **options)


# -- versions --------------------------------------------------------------------------------------------------------------


@kb.command()
@click.argument("base")
@asks()
def versions(cli: CliContext, endpoint: Endpoint, *, base: str) -> None:
    """List the versions of BASE that can be asked and gone back to, the newest first."""
    from taskloom.sdk.cli.kb_render import versions_table

    with endpoint.open() as client:
        found = client.knowledge(base).versions()
    cli.show({"versions": found}, lambda: versions_table(found))


@kb.command()
@click.argument("base")
@click.argument("name")
@click.option("--drop", is_flag=True, help="Take the name away instead: the version goes when others of its age go.")
@asks()
def snapshot(cli: CliContext, endpoint: Endpoint, *, base: str, name: str, drop: bool) -> None:
    """Keep the newest version of BASE under NAME."""
    with endpoint.open() as client:
        knowledge = client.knowledge(base)
        info = knowledge.drop_snapshot(name) if drop else knowledge.snapshot(name)
    kept = f"is not kept as {name} any more" if drop else f"is kept as {name}"
    cli.show(info, lambda: f"version {info.number} of {base} {kept}")


@kb.command()
@click.argument("base")
@click.argument("version", type=int)
@asks()
def rollback(cli: CliContext, endpoint: Endpoint, *, base: str, version: int) -> None:
    """Make a new version of BASE that has what VERSION had."""
    with endpoint.open() as client:
        made = client.knowledge(base).rollback(version)
    cli.show({"base": base, "version": made}, lambda: f"{base} is at version {made}, which has what {version} had")
