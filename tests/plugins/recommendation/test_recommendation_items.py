"""Items can be changed without training and without a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from taskloom.core.artifact import Artifact, DataInfo
from taskloom.core.errors import AlreadyExistsError, NotFoundError, TaskloomError, UnsupportedError
from taskloom.core.publishing import ModelStory, publish_trained, read_report
from taskloom.core.registry import Registry
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore
from taskloom.core.task import SharedParts
from taskloom.core.types import InferCall, ModelRef
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.recommendation.catalogue import Catalogue
from taskloom.plugins.tasks.recommendation.commands import items
from taskloom.plugins.tasks.recommendation.interactions import read_examples, split
from taskloom.plugins.tasks.recommendation.plugin import RecommendationTask
from taskloom.plugins.tasks.recommendation.schema import CatalogueConfig
from taskloom.server.engine.engine import Engine

NEW = "item,title,title_zh,kind,age\ncard-new,the card x,新卡,card|item,new\norder-new,the order x,,order|item,fresh\n"
FP32 = RuntimeConfig(precision="fp32", device="cpu", threads=1)


@dataclass
class Cli:
    """What the tool's root hands to a command."""

    registry: Registry
    settings: Settings
    store: ModelStore
    printed: list[Any] = field(default_factory=list)

    def print_json(self, data: Any) -> None:
        self.printed.append(data)

    def run(self, *words: object) -> Result:
        return CliRunner().invoke(items, [str(word) for word in words], obj=self, catch_exceptions=False)


@pytest.fixture
def cli(tmp_path: Path, world: Any, trained: Any) -> Cli:
    """A store with the small world's recommender as version 1, in production."""
    registry = Registry()
    registry.tasks.add(RecommendationTask(), "tests")
    registry.runtimes.add(TorchRuntime(), "tests")
    settings = Settings(
        home=tmp_path,
        server={"model_poll_s": 0.05, "dispatcher": "local", "drain_s": 5},
        pools={"default": {"runtime": {"precision": "fp32", "device": "cpu", "threads": 1}}},
    )
    store = ModelStore([settings.models_folder])
    split(list(read_examples(world.choices)), tmp_path / "held", per_user=2, at_least=5, cold_share=0.1)
    held = list(read_examples(tmp_path / "held" / "held.jsonl"))
    publish_trained(
        store,
        registry,
        RecommendationTask(),
        trained,
        ModelStory(name="shop", description="A shop.", licence="Apache-2.0"),
        config={},
        data=(DataInfo(name="choices.csv", sha256="0" * 64, rows=90),),
        evaluation=held,
        evaluation_data=DataInfo(name="held.jsonl", sha256="1" * 64, rows=len(held)),
        runtime=FP32,
    )
    return Cli(registry, settings, store)


def answer(artifact: Artifact, given: dict[str, Any], params: dict[str, Any] | None = None) -> list[str]:
    task = RecommendationTask()
    model = task.load(artifact, SharedParts())
    with torch.inference_mode():
        outputs = model.forward(model.encode([task.Input.model_validate(given)]))
    found = model.decode(outputs, [task.Input.model_validate(given)], [task.Params.model_validate(params or {})])[0]
    return [item.item for item in found.items]


def test_new_items_are_recommended_by_their_text_and_found_by_their_attributes(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(NEW, encoding="utf-8")
    before = cli.store.resolve("shop@1")
    assert cli.run("add", "shop", "--items", tmp_path / "new.csv").exit_code == 0
    after = cli.store.resolve("shop@candidate")
    assert after.manifest.version == "2"
    assert set(answer(after, {}, {"top_k": 100})) - set(answer(before, {}, {"top_k": 100})) == {"card-new", "order-new"}
    assert answer(after, {"history": ["card-1"]}, {"among": ["card-new", "order-new"]})[0] == "card-new"
    assert answer(after, {"history": ["order-1"]}, {"among": ["card-new", "order-new"]})[0] == "order-new"
    assert answer(after, {}, {"where": {"age": "fresh"}}) == ["order-new"]
    assert answer(after, {"likes": ["新卡"]}, {"top_k": 100}).count("card-new") == 0, "its title makes it seen"
    assert cli.store.resolve("shop").manifest.version == "1", "production stays until it is moved"


def test_what_is_left_out_need_not_be_there(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(NEW, encoding="utf-8")
    config = CatalogueConfig(attributes=("kind", "age"), leave_out={"kind": ("tram", "Card"), "age": "broken"})
    assert [item.item for item in Catalogue.read(tmp_path / "new.csv", config).items] == ["order-new"]


def test_old_items_score_as_before(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(NEW, encoding="utf-8")
    cli.run("add", "shop", "--items", tmp_path / "new.csv")
    given, params = {"history": ["card-1", "hello-2"]}, {"top_k": 100}
    before, after = (answer(cli.store.resolve(f"shop@{version}"), given, params) for version in (1, 2))
    assert [item for item in after if not item.endswith("-new")] == before


def test_removed_items_are_gone_and_unknown(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "gone.txt").write_text("card-2\n\nhello-3\n", encoding="utf-8")
    assert cli.run("remove", "shop", "--items", tmp_path / "gone.txt", "--alias", "production").exit_code == 0
    after = cli.store.resolve("shop")
    assert after.manifest.version == "2"
    everything = answer(after, {}, {"top_k": 100})
    assert len(everything) == 34
    assert not {"card-2", "hello-3"} & set(everything)


def test_what_was_done_is_on_record(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(NEW, encoding="utf-8")
    (tmp_path / "gone.csv").write_text("item,title\ncard-2,x\n", encoding="utf-8")
    cli.run("add", "shop", "--items", tmp_path / "new.csv")
    cli.run("remove", "shop@2", "--items", tmp_path / "gone.csv", "--json")
    parent, after = cli.store.resolve("shop@2"), cli.store.resolve("shop@3")
    assert after.manifest.parent is not None
    assert (after.manifest.parent.version, after.manifest.parent.digest) == ("2", parent.digest)
    assert [step.name for step in after.manifest.steps] == ["train", "items.add", "items.remove"]
    assert after.manifest.steps[-1].config == {"ids": ["card-2"]}
    assert cli.printed == [{"model": "shop@3", "parent": "shop@2", "aliases": ["candidate"], "changed": 1, "items": 37}]
    assert read_report(after) == read_report(cli.store.resolve("shop@1"))
    assert "measured" in (after.folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_a_version_can_be_measured_anew(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "gone.txt").write_text("card-2\n", encoding="utf-8")
    cli.run("remove", "shop", "--items", tmp_path / "gone.txt", "--eval", tmp_path / "held" / "held.jsonl")
    assert read_report(cli.store.resolve("shop@2")).evaluation_data.name == "held.jsonl"
    assert read_report(cli.store.resolve("shop@2")) != read_report(cli.store.resolve("shop@1"))


@pytest.mark.parametrize(
    ("command", "content", "error", "told"),
    [
        ("add", "item,title,kind,age\ncard-1,x,card,new\n", AlreadyExistsError, "'card-1'"),
        ("remove", "item\nno-such\n", NotFoundError, "'no-such'"),
        ("add", "item,title\nx,y\n", TaskloomError, "no column 'kind'"),
    ],
)
def test_a_change_that_makes_no_sense_publishes_nothing(
    cli: Cli, tmp_path: Path, command: str, content: str, error: type[TaskloomError], told: str
) -> None:
    (tmp_path / "items.csv").write_text(content, encoding="utf-8")
    with pytest.raises(error) as refused:
        cli.run(command, "shop", "--items", tmp_path / "items.csv")
    assert told in str(refused.value)
    assert cli.store.versions("shop") == ["1"]


def test_items_are_listed_in_the_form_that_add_takes(cli: Cli, tmp_path: Path) -> None:
    lines = cli.run("list", "shop", "--json").output.splitlines()
    assert len(lines) == 36
    row = {**json.loads(lines[1]), "item": "another"}
    assert row["title_zh"] == "我的card1"
    (tmp_path / "again.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert cli.run("add", "shop", "--items", tmp_path / "again.jsonl").exit_code == 0
    assert cli.run("list", "shop@2").output.splitlines()[-1].split("\t")[:2] == ["another", "the card b"]


def test_only_recommenders_have_items(cli: Cli) -> None:
    artifact = cli.store.resolve("shop@1")
    with cli.store.draft("other") as draft:
        (draft / "notes.txt").write_text("x")
        cli.store.publish(draft, artifact.manifest.model_copy(update={"model": "other", "task": "classification"}))
    with pytest.raises(UnsupportedError, match="classification"):
        cli.run("list", "other")


@pytest.fixture
async def engine(cli: Cli) -> AsyncIterator[Engine]:
    made = Engine.from_settings(cli.settings, cli.registry, store=cli.store)
    await made.start()
    yield made
    await made.close()


async def test_a_running_server_takes_up_new_items_without_a_failed_call(cli: Cli, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(NEW, encoding="utf-8")
    found: list[tuple[str, bool]] = []
    failures: list[BaseException] = []
    stop = asyncio.Event()

    async def caller() -> None:
        call = {"model": ModelRef.parse("shop"), "input": {"history": ["card-1"]}, "params": {"top_k": 100}}
        while not stop.is_set():
            try:
                result = await engine.infer(InferCall(**call))
                found.append((result.version, any(item["item"] == "card-new" for item in result.output["items"])))
            except TaskloomError as exc:
                failures.append(exc)
            await asyncio.sleep(0.005)

    callers = [asyncio.create_task(caller()) for _ in range(4)]
    await asyncio.sleep(0.1)
    await asyncio.to_thread(cli.run, "add", "shop", "--items", tmp_path / "new.csv", "--alias", "production")
    async with asyncio.timeout(60):
        while ("2", True) not in found:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)
    stop.set()
    await asyncio.gather(*callers)
    assert failures == []
    assert set(found) == {("1", False), ("2", True)}
