from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, distribution
from pathlib import Path
from typing import Any

import pytest

from taskloom.core.errors import AlreadyExistsError, NotFoundError, PluginError
from taskloom.core.loader import load_registry
from taskloom.core.registry import Shelf

GOOD = """
import taskloom.core as taskloom
class Command:
    name, summary, target = {name!r}, "", "x:y"
@taskloom.hookimpl
def register_commands(register):
    register(Command())
"""
MISSPELT = "import taskloom.core as taskloom\n@taskloom.hookimpl\ndef register_task(register): pass\n"
A_CLASS = "import taskloom.core as taskloom\n@taskloom.hookimpl\ndef register_tasks(register): register(int)\n"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(tmp_path)

    def write(**sources: str) -> list[EntryPoint]:
        for name, source in sources.items():
            sys.modules.pop(name, None)
            (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        return [EntryPoint(name, name, "taskloom") for name in sources]

    return write


def test_a_broken_plugin_is_reported_and_stops_nothing(modules: Any) -> None:
    points = modules(
        plug_a="raise RuntimeError('no such GPU')", plug_b=GOOD.format(name="hello"), plug_c="import sys; sys.exit(3)"
    )
    registry = load_registry(points)
    assert [command.name for command in registry.commands] == ["hello"]
    reports = {report.owner: report for report in registry.reports}
    assert "no such GPU" in reports["unknown:plug_a"].error
    assert reports["unknown:plug_b"].provides == ("command:hello",)
    assert "SystemExit" in reports["unknown:plug_c"].error


def test_a_second_plugin_of_one_name_is_skipped_and_names_both_owners(modules: Any) -> None:
    registry = load_registry(modules(plug_d=GOOD.format(name="same"), plug_e=GOOD.format(name="same")))
    assert len(registry.commands) == 1
    error = next(report.error for report in registry.reports if report.error)
    assert "plug_d" in error
    assert "plug_e" in error


def test_a_misspelt_hook_is_reported(modules: Any) -> None:
    (report,) = load_registry(modules(plug_f=MISSPELT)).reports
    assert "'register_task'" in report.error
    assert "register_tasks" in report.error


def test_a_class_instead_of_an_instance_is_reported(modules: Any) -> None:
    (report,) = load_registry(modules(plug_g=A_CLASS)).reports
    assert "instance" in report.error


def test_a_plugin_whose_hook_is_not_marked_is_reported(modules: Any) -> None:
    (report,) = load_registry(modules(plug_u="def register_tasks(register): pass\n")).reports
    assert "@hookimpl" in report.error


TASK = """
import taskloom.core as taskloom
from taskloom.core.types import Frozen
class Text(Frozen):
    text: str = ""
class Task(taskloom.TaskPlugin):
    name, description, Input, Output, Params, TrainConfig = "t", "", Text, Text, Text, Text
    metrics = (taskloom.MetricSpec(name="accuracy", description=""),)
    primary_metric, data_formats, text_field = "accuracy", (), "text"
    cost = read_examples = train = load = evaluate = lambda *_: None
    {change}
@taskloom.hookimpl
def register_tasks(register):
    register(Task())
"""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("pass", ""),
        ("name = 'My Task'", "'My Task'"),
        ("primary_metric = 'f1'", "'f1', and its metrics are: accuracy"),
        ("text_field = 'txt'", "'txt', and its input has: text"),
        ("Params = dict", "Params of task 't'"),
    ],
)
def test_a_task_that_can_not_work_is_reported(modules: Any, change: str, told: str) -> None:
    registry = load_registry(modules(plug_t=TASK.format(change=change)))
    assert (len(registry.tasks), bool(registry.reports[0].error)) == ((0, True) if told else (1, False))
    assert told in registry.reports[0].error


def test_a_skipped_plugin_observes_nothing(modules: Any) -> None:
    source = (
        "import taskloom.core as taskloom\n@taskloom.hookimpl\ndef observe_request(event): raise AssertionError\n" + A_CLASS
    )
    registry = load_registry(modules(plug_h=source))
    assert registry.hooks is not None
    assert registry.hooks.hook.observe_request.get_hookimpls() == []


def test_a_broken_builtin_is_fatal(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (point,) = modules(plug_i="raise RuntimeError('bad release')")
    builtin = point._for(distribution("taskloom"))
    with pytest.raises(PluginError, match="bad release"):
        load_registry([builtin])


def test_the_installed_builtins_load_and_import_no_ml_library() -> None:
    import subprocess

    code = (
        "import sys; from taskloom.core.loader import load_registry; r = load_registry();"
        "assert 'classification' in r.tasks and 'torch' in r.runtimes and 'predict' in r.commands, r.reports;"
        "heavy = {'torch', 'transformers', 'ray', 'sqlalchemy', 'numpy', 'grpc', 'sklearn'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_shelf_tells_what_it_has() -> None:
    shelf: Shelf[Any] = Shelf("task")

    class Ner:
        name = "ner"

    shelf.add(Ner(), "a:b")
    with pytest.raises(NotFoundError, match="There are: ner"):
        shelf.get("qa")
    with pytest.raises(AlreadyExistsError, match="a:b and c:d"):
        shelf.add(Ner(), "c:d")
