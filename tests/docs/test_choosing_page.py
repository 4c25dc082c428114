"""The guide to choosing a model, in both languages, shows the measured table; and that shows what the models' reports say."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskloom.core.comparison import model_bytes
from taskloom.core.loader import load_registry
from taskloom.core.publishing import read_report
from taskloom.core.selection import MeasuredTable, packaged_table
from taskloom.core.store import ModelStore
from taskloom.core.types import ModelDescription, ModelInfo
from taskloom.sdk.cli.inputs import InputForm

ROOT = Path(__file__).parents[2]
PAGES = ("choosing.md", "choosing.zh-CN.md")
AGAIN = "run python benchmarks/selection.py; --speeds alone leaves times as they are, --docs writes the pages alone"


@pytest.fixture(scope="module")
def tables() -> Iterator[Any]:
    """benchmarks/choosing_tables.py, which writes them."""
    path = ROOT / "benchmarks" / "choosing_tables.py"
    spec = importlib.util.spec_from_file_location("choosing_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["choosing_tables"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["choosing_tables"]


@pytest.fixture(scope="module")
def measured() -> MeasuredTable:
    return packaged_table()


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["ENGLISH", "CHINESE"])
def test_the_pages_show_the_table_and_what_the_command_says(tables: Any, measured: MeasuredTable, name: str) -> None:
    words = getattr(tables, name)
    page = text_of(words.page)
    assert tables.with_answers(tables.with_tables(page, measured, words)) == page, AGAIN
    assert page.count("$ taskloom advise") >= 2
    assert all(f"`{model.name}`" in page for model in measured.models)


def test_a_page_without_marks_is_refused(tables: Any, measured: MeasuredTable) -> None:
    with pytest.raises(ValueError, match="has no"):
        tables.with_tables("# A page", measured, tables.ENGLISH)


def test_an_answer_that_changed_would_be_seen(tables: Any, measured: MeasuredTable) -> None:
    page = text_of("choosing.md")
    figure = f"{measured.models[0].quality.value:.3f}"
    changed = page.replace(figure, "0.001")
    assert changed != page
    assert tables.with_answers(tables.with_tables(changed, measured, tables.ENGLISH)) == page


def test_both_pages_have_the_same_commands_the_same_tree_and_the_same_links() -> None:
    english, chinese = map(text_of, PAGES)
    assert re.findall(r"^\$ .*", english, re.M) == re.findall(r"^\$ .*", chinese, re.M)
    nodes = [set(re.findall(r"^ {4}.*?(\w+)[\[{]\"", page, re.M)) for page in (english, chinese)]
    assert nodes[0] == nodes[1]
    assert len(nodes[0]) > 10
    assert english.count("-->") == chinese.count("-->")
    links = [set(re.findall(r"\]\(([^)#]+)", page)) for page in (english, chinese)]
    assert {link.replace(".zh-CN", "") for link in links[0]} == {link.replace(".zh-CN", "") for link in links[1]}
    assert all((ROOT / "docs" / link).exists() for link in links[0] | links[1])


def test_what_the_tree_names_is_there() -> None:
    models, tree = set(ModelStore([ROOT / "models"]).models()), text_of(PAGES[0]).split("```mermaid")[1].split("```")[0]
    named = set(re.findall(r"\b[a-z-]+-(?:en|anime|fashion)\b(?!\.toml)", tree))
    assert named <= models
    assert {"zero-shot-en", "embed-en"} <= named
    paths = re.findall(r"(?:models|benchmarks)/[\w./-]+", tree)
    assert len(paths) >= 3
    assert all((ROOT / path).exists() for path in paths)


def test_every_model_in_the_box_is_in_the_table_as_its_report_has_it(measured: MeasuredTable) -> None:
    store, registry = ModelStore([ROOT / "models"]), load_registry()
    newest = {name: store.resolve(f"{name}@{store.versions(name)[-1]}") for name in store.models()}
    rows = {model.name: model for model in measured.models if model.bundled}
    assert sorted(rows) == sorted(newest), AGAIN
    for name, artifact in newest.items():
        row, report = rows[name], read_report(artifact)
        metric = registry.tasks.get(row.task).primary_metric
        assert (row.version, row.task) == (artifact.manifest.version, artifact.manifest.task), AGAIN
        assert (row.quality.metric, row.quality.value) == (metric, report.evaluation.metrics[metric]), AGAIN
        assert (row.quality.low, row.quality.high) == report.evaluation.intervals[metric], AGAIN
        assert (row.quality.rows, row.quality.data_sha256) == (report.evaluation.examples, report.evaluation_data.sha256), AGAIN
        assert row.size_bytes == model_bytes(artifact.manifest), AGAIN


def test_every_row_has_a_recipe_and_says_how_to_print_it_again(measured: MeasuredTable) -> None:
    for model in measured.models:
        recipe = (ROOT / model.recipe).read_text(encoding="utf-8")
        assert f'name = "{model.name}"' in recipe
        assert f'task = "{model.task}"' in recipe
        assert model.reprint.startswith(("python benchmarks/selection.py", f"taskloom train {model.recipe}"))
        assert model.bundled or model.first_command == f"taskloom train {model.recipe}"


def test_what_to_type_is_an_input_that_the_model_takes(measured: MeasuredTable, tmp_path: Path) -> None:
    """The words are read as `taskloom predict` reads them, and the task takes what comes out."""
    registry, picture = load_registry(), ROOT / "tests" / "data" / "fashion-mnist-sample" / "bag-0.png"
    for model in (model for model in measured.models if model.bundled):
        tool, command, ref, *words, local = shlex.split(model.first_command)
        assert (tool, command, local) == ("taskloom", "predict", "--local")
        artifact = ModelStore([ROOT / "models"]).resolve(ref)
        assert artifact.manifest.model == model.name
        task = registry.tasks.get(model.task)
        forms = {
            f"{name}_schema": getattr(task, name.capitalize()).model_json_schema() for name in ("input", "output", "params")
        }
        form = InputForm.of(ModelDescription(info=ModelInfo(name=model.name, version="1", task=model.task), **forms))
        (asked,) = form.read_words([word.replace("PICTURE.png", str(picture)) for word in words])
        assert task.Input.model_validate(dict(asked.input)) is not None


def test_what_optimizers_gain_is_what_their_page_says(measured: MeasuredTable) -> None:
    page = (ROOT / "docs" / "optimizers" / "quantize.md").read_text(encoding="utf-8")
    told = [remedy for remedy in measured.remedies if remedy.speedup is not None]
    assert len(told) == 3
    for remedy in told:
        mode = remedy.settings[0].removeprefix("mode=")
        row = next(line for line in page.splitlines() if line.startswith(f"| `{mode}` | ") and "(0." in line)
        assert f"({remedy.size_share:.3f})" in row
        assert f"| {remedy.speedup:.2f} |" in row
        assert f"`{remedy.reprint}`" in page
    assert {remedy.optimizer for remedy in measured.remedies} <= {one.name for one in load_registry().optimizers}
