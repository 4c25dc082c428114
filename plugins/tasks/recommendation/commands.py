"""`taskloom items`: a recommender's items, changed without training, and interactions held out for its evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskloom.core.errors import DataError, UnsupportedError

if TYPE_CHECKING:
    from taskloom.core.artifact import Artifact
    from taskloom.plugins.commands import CliContext
    from taskloom.plugins.tasks.recommendation.model import RecommendationModel

TASK = "recommendation"
LISTED = 1000
"""Ids that the lineage keeps of a change; the file's digest stands for the rest."""
data_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class ItemChange:
    """What was done to which items, and the file that said so."""

    action: str
    ids: tuple[str, ...]
    path: Path


@click.group()
def items() -> None:
    """Change the items of a recommender without training it anew; hold out interactions to evaluate one."""


@items.command("list")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print the items as JSON lines, in the form that `add` takes.")
@click.pass_obj
def list_items(cli: CliContext, model: str, as_json: bool) -> None:
    """List the items of MODEL (NAME, NAME@VERSION or NAME@ALIAS)."""
    import json

    from taskloom.plugins.tasks.recommendation.catalogue import Catalogue
    from taskloom.plugins.tasks.recommendation.model import ITEMS_FILE
    from taskloom.plugins.tasks.recommendation.schema import SavedRecommender

    artifact = _recommender(cli, model)
    saved = SavedRecommender.model_validate(dict(artifact.manifest.config))
    for item in Catalogue.load(artifact.path(ITEMS_FILE), saved.catalogue).items:
        if as_json:
            titles = {f"title_{language}": title for language, title in item.titles.items()}
            click.echo(json.dumps({"item": item.item, "title": item.title, **titles, **item.attributes}, ensure_ascii=False))
        else:
            click.echo(f"{item.item}\t{item.title}\t{item.description()}")


@items.command()
@click.argument("model")
@click.option("--items", "path", type=data_file, required=True, help="The items, with the columns that the model was made of.")
@click.option("--eval", "evaluation", type=data_file, help="Measure the new version on these rows (default: what is known).")
@click.option("--alias", "aliases", multiple=True, default=("candidate",), show_default=True, help="Point this alias at it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def add(cli: CliContext, model: str, *, path: Path, evaluation: Path | None, aliases: tuple[str, ...], as_json: bool) -> None:
    """Publish a version of MODEL that knows more items. The item tower makes their vectors of title and attributes.

    A server takes the new version up by itself once the alias that it serves points at it: `--alias production`.
    """
    from taskloom.plugins.tasks.recommendation.catalogue import Catalogue

    parent, before = _loaded(cli, model)
    new = Catalogue.read(path, before.saved.catalogue).items
    after = before.with_items(new)
    _publish(
        cli,
        parent,
        after,
        ItemChange("items.add", tuple(item.item for item in new), path),
        evaluation=evaluation,
        aliases=aliases,
        as_json=as_json,
    )


@items.command()
@click.argument("model")
@click.option("--items", "path", type=data_file, required=True, help="The ids to remove, one a line, or an items file.")
@click.option("--eval", "evaluation", type=data_file, help="Measure the new version on these rows (default: what is known).")
@click.option("--alias", "aliases", multiple=True, default=("candidate",), show_default=True, help="Point this alias at it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def remove(
    cli: CliContext, model: str, *, path: Path, evaluation: Path | None, aliases: tuple[str, ...], as_json: bool
) -> None:
    """Publish a version of MODEL without some items: they are no longer recommended."""
    parent, before = _loaded(cli, model)
    gone = _ids(path)
    after = before.without_items(gone)
    _publish(
        cli,
        parent,
        after,
        ItemChange("items.remove", tuple(gone), path),
        evaluation=evaluation,
        aliases=aliases,
        as_json=as_json,
    )


@items.command()
@click.argument("interactions", type=data_file)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The folder to write into.")
@click.option("--per-user", type=click.IntRange(min=1), default=5, show_default=True, help="Choices to hold out of each user.")
@click.option("--at-least", type=click.IntRange(min=1), default=20, show_default=True, help="Of users with so many choices.")
@click.option("--cold", type=click.FloatRange(0, 0.5), default=0.025, show_default=True, help="Share of items held out whole.")
@click.option("--seed", type=click.IntRange(min=0), default=13, show_default=True)
def split(interactions: Path, *, out: Path, per_user: int, at_least: int, cold: float, seed: int) -> None:
    """Hold out a part of INTERACTIONS (`user,item`): writes fit.csv to train on and held.jsonl to evaluate on.

    The same file and seed give the same parts.
    """
    from taskloom.plugins.tasks.recommendation.interactions import read_examples
    from taskloom.plugins.tasks.recommendation.interactions import split as hold_out

    found = hold_out(list(read_examples(interactions)), out, per_user=per_user, at_least=at_least, cold_share=cold, seed=seed)
    click.echo(
        f"{found.users} users: {found.kept} choices kept, {found.warm} held out, "
        f"and {found.cold} of {found.cold_items} cold items"
    )


def _recommender(cli: CliContext, model: str) -> Artifact:
    artifact = cli.store.resolve(model)
    if artifact.manifest.task != TASK:
        raise UnsupportedError(f"{artifact.name} is a model of task {artifact.manifest.task!r}; only recommenders have items")
    return artifact


def _loaded(cli: CliContext, model: str) -> tuple[Artifact, RecommendationModel]:
    from taskloom.core.task import SharedParts
    from taskloom.plugins.tasks.recommendation.model import RecommendationModel

    artifact = _recommender(cli, model)
    artifact.verify()
    return artifact, RecommendationModel.load(artifact, SharedParts())


def _publish(
    cli: CliContext,
    parent: Artifact,
    model: RecommendationModel,
    change: ItemChange,
    *,
    evaluation: Path | None,
    aliases: tuple[str, ...],
    as_json: bool,
) -> None:
    """A version of the parent's model with other items. Measured on `evaluation`; without it the parent's report is taken
    over, and the card says so."""
    from taskloom.core.artifact import LineageStep, ParentInfo, file_digest
    from taskloom.core.publishing import ModelStory, publish_model, read_report
    from taskloom.plugins._shared.datasets import describe_data
    from taskloom.plugins.commands.events import record_event

    known = parent.manifest
    task = cli.registry.tasks.get(TASK)
    facts = {"file": change.path.name, "sha256": file_digest(change.path).sha256, "items": len(change.ids)}
    step = LineageStep(
        name=change.action, config={"ids": list(change.ids[:LISTED])}, facts={**facts, "left": len(model.catalogue)}
    )
    rows = list(task.read_examples(evaluation)) if evaluation else []
    limits = "" if evaluation else f"Its items were changed after it was measured: the figures are those of {parent.name}. "
    record_event(
        cli.registry, cli.settings, change.action, model=known.model, task=TASK, facts={**facts, "parent": parent.digest}
    )
    artifact = publish_model(
        cli.store,
        cli.registry,
        task,
        model,
        ModelStory(
            name=known.model,
            description=known.description,
            languages=known.languages,
            licence=known.licence,
            examples=known.examples,
            limits=f"{limits}See the card of {parent.name}.",
        ),
        steps=(*known.steps, step),
        data=known.data,
        evaluation=rows,
        evaluation_data=describe_data(evaluation, len(rows)) if evaluation else None,
        report=None if evaluation else read_report(parent),
        parent=ParentInfo(model=known.model, version=known.version, digest=parent.digest),
        aliases=aliases,
    )
    told = {
        "model": artifact.name,
        "parent": parent.name,
        "aliases": list(artifact.aliases),
        "changed": len(change.ids),
        "items": len(model.catalogue),
    }
    if as_json:
        cli.print_json(told)
    else:
        click.echo(f"published {artifact.name} ({', '.join(artifact.aliases)}) with {len(model.catalogue)} items")


def _ids(path: Path) -> list[str]:
    """Ids, one a line; of a file with columns, the column `item`."""
    from taskloom.plugins._shared.datasets import read_rows
    from taskloom.plugins.tasks.recommendation.catalogue import columns_of

    if path.suffix in {".csv", ".tsv", ".jsonl"}:
        rows = read_rows(path, columns=columns_of(path), required=("item",))
        return [str(row.values["item"]) for row in rows]
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as exc:
        raise DataError(f"{path} is not UTF-8; save it as UTF-8", path=str(path)) from exc
    if not found:
        raise DataError(f"{path} names no items; write one id a line", path=str(path))
    return found
