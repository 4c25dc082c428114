"""`taskloom advise` as it is typed: every option, what it says, and in which width."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from measured_models import FAST, SLOW, model, speed, table
from rich.cells import cell_len
from rich.console import Console

from taskloom.core.advice import Wishes, advise
from taskloom.core.selection import TABLE, MeasuredTable, Remedy, packaged_table, read_table
from taskloom.sdk.cli import doctor
from taskloom.sdk.cli.advise_render import advice_shown
from taskloom.sdk.cli.main import root

ROWS = table(
    model("quick", value=0.70, ms=8, speed={"memory_mb": 300}, backbone_bytes=0),
    model("good", value=0.90, ms=38, speed={"memory_mb": 600}),
    model("zh-small", value=0.60, ms=12, languages=("zh",), bundled=False),
    model("reader", task="qa"),
    remedies=(Remedy(optimizer="quantize", settings=("mode=dynamic",), helps=("latency",)),),
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskloom.core.selection.packaged_table", lambda: ROWS)
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: frozenset({"avx512_bf16"}))


def run(*words: str) -> Result:
    return CliRunner().invoke(root, ["advise", *words], prog_name="taskloom")


def listed(*words: str) -> dict[str, list[str]]:
    result = run("--task", "ner", *words, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    return {group: [one["model"]["name"] for one in told[group]] for group in ("fits", "unknown", "misses")}


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("words", "fits"),
    [
        ((), ["good", "quick", "zh-small"]),
        (("--lang", "en"), ["good", "quick"]),
        (("--lang", "ZH_cn"), ["zh-small"]),
        (("--budget-ms", "20"), ["quick", "zh-small"]),
        (("--budget-ms", "20", "--percentile", "p99"), ["quick"]),
        (("--budget-ms", "30", "--inputs", "long"), ["quick"]),
        (("--budget-mb", "400"), ["quick"]),
        (("--size-mb", "20"), ["quick"]),
        (("--min-metric", "0.9"), ["good"]),
        (("--lang", "en", "--budget-ms", "20", "--min-metric", "0.8"), []),
    ],
)
def test_each_option_leaves_out_what_does_not_fit(words: tuple[str, ...], fits: list[str]) -> None:
    found = listed(*words)
    assert found["fits"] == fits
    assert sorted([*found["fits"], *found["misses"]]) == ["good", "quick", "zh-small"]


def test_the_machine_is_the_one_like_this_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    one = model("one").model_copy(update={"speeds": {FAST: speed(10), SLOW: speed(40)}})
    monkeypatch.setattr("taskloom.core.selection.packaged_table", lambda: table(one))
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: frozenset({"avx2"}))
    assert listed("--budget-ms", "20")["misses"] == ["one"]
    assert listed("--budget-ms", "20", "--machine", FAST)["fits"] == ["one"]
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: frozenset({"amx_bf16"}))
    assert listed("--budget-ms", "20")["fits"] == ["one"]
    assert "There are: cpu-bf16, cpu-fp32." in run("--task", "ner", "--machine", "gpu").stderr


def test_who_runs_models_in_another_precision_than_was_measured_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_alone = MeasuredTable(machines={FAST: ROWS.machines[FAST]}, models=(model("one", ms=None),))
    monkeypatch.setattr("taskloom.core.selection.packaged_table", lambda: fast_alone)
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: frozenset({"avx2"}))
    assert "models run in fp32 on this processor, which was not measured" in " ".join(run("--task", "ner").stdout.split())
    assert json.loads(run("--task", "ner", "--json").stdout)["note"]
    assert "run in fp32" not in run("--task", "ner", "--machine", FAST).stdout
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: frozenset({"avx512_bf16"}))
    assert json.loads(run("--task", "ner", "--json").stdout)["note"] == ""


@pytest.mark.usefixtures("measured")
def test_it_says_why_and_what_to_type() -> None:
    said = " ".join(run("--task", "ner", "--lang", "en", "--budget-ms", "20").stdout.split())
    assert "p50 of a short request: 8 ms is within 20 ms" in said
    assert "$ taskloom predict quick text --local" in said
    assert "good p50 of a short request: 38 ms is over 20 ms" in said
    assert "zh-small reads zh, not en" in said
    assert (
        "cpu-bf16: processor time on a processor, bf16, one thread, 2026-11-29, with other work beside it (load 1.5 to 1.5)"
        in said
    )
    assert "what may help" not in said


@pytest.mark.usefixtures("measured")
def test_where_nothing_fits_it_says_what_comes_nearest_and_what_may_help() -> None:
    words = ("--task", "ner", "--lang", "en", "--budget-ms", "5")
    said = " ".join(run(*words).stdout.split())
    assert said.startswith("nothing that was measured fits what comes nearest first - quick")
    assert "taskloom optimize quick --with quantize --set quantize.mode=dynamic" in said
    result = run(*words, "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["fits"]) == (0, [])
    assert told["misses"][0]["excess"] == pytest.approx(1.6)


def test_what_was_not_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskloom.core.selection.packaged_table", lambda: table(model("dark", ms=None)))
    said = " ".join(run("--task", "ner", "--budget-ms", "20").stdout.split())
    assert "nothing that was measured fits" in said
    assert "? dark 0.800 not measured not measured 96.0" in said
    assert "may fit: something that was asked for was not measured" in said


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("--task", "nr"), 1, "no measured task named 'nr'; did you mean 'ner'? There are: ner, qa."),
        (("--task", "ner", "--lang", "fr"), 1, "no measured language named 'fr'. There are: en, zh."),
        ((), 2, "Missing option '--task'"),
        (("--task", "ner", "--budget-ms", "0"), 2, "--budget-ms"),
        (("--task", "ner", "--size-mb", "-1"), 2, "--size-mb"),
        (("--task", "ner", "--budget-mb", "nan"), 2, "nan is no figure"),
        (("--task", "ner", "--min-metric", "inf"), 2, "inf is no figure"),
        (("--task", "ner", "--percentile", "p90"), 2, "p90"),
    ],
)
def test_what_cannot_be_answered(words: tuple[str, ...], status: int, told: str) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (status, "")
    assert told in result.stderr


@pytest.mark.usefixtures("measured")
def test_an_error_as_json() -> None:
    error = json.loads(run("--task", "nr", "--json").stderr)["error"]
    assert error["code"] == "not_found"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_chinese_stays_within_the_width_and_in_its_columns(width: int) -> None:
    described = "找出中文文本里的人名、地名和机构名，读得懂简体也读得懂繁体，词典里的词总是对的；训练数据是百科文字。"
    rows = table(model("zh-a", languages=("zh",), description=described), model("zh-b", value=0.5, languages=("zh",)))
    found = advise(rows, Wishes(task="ner", language="zh", budget_s=0.02), FAST)
    lines = shown(found, rows, width).splitlines()
    assert max(cell_len(line) for line in lines) <= width
    text = "".join(line.strip() for line in lines)
    assert described in text.replace(" ", "")
    inside = [line for line in lines if any("一" <= letter <= "鿿" for letter in line)]
    assert len(inside) >= 1
    assert all(line.startswith("  ") for line in inside)


def test_a_control_character_in_a_table_moves_nothing() -> None:
    rows = table(model("a", description="one\x1b[2Jtwo"))
    assert "\x1b" not in shown(advise(rows, Wishes(task="ner"), FAST), rows, 80)


def shown(found: Any, rows: MeasuredTable, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False, color_system=None).print(advice_shown(found, rows))
    return stream.getvalue()


def test_it_needs_no_ml_library() -> None:
    code = (
        "import sys\nfrom taskloom.sdk.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "heavy = [name for name in ('torch', 'ray', 'numpy', 'transformers', 'sqlalchemy', 'grpc') if name in sys.modules]\n"
        "print(code, heavy, file=sys.stderr)"
    )
    words = ["advise", "--task", "ner", "--lang", "en", "--budget-ms", "500"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "0 []", done.stderr
    assert "ner-en" in done.stdout


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / TABLE
    path.write_text(ROWS.model_dump_json(indent=1), encoding="utf-8")
    assert read_table(path) == ROWS


@pytest.mark.parametrize("text", ["", "{}", '{"machines": {}, "models": []}'])
def test_a_table_that_cannot_be_read_is_a_typed_error(tmp_path: Path, text: str) -> None:
    from taskloom.core.errors import ArtifactError

    path = tmp_path / TABLE
    with pytest.raises(ArtifactError, match=r"measured\.json"):
        read_table(path)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"measured\.json"):
        read_table(path)


def test_a_table_names_each_model_once_and_its_machines() -> None:
    with pytest.raises(ValueError, match="measured twice: quick"):
        MeasuredTable(machines=ROWS.machines, models=(ROWS.models[0], ROWS.models[0]))
    with pytest.raises(ValueError, match="does not name: cpu-fp32"):
        MeasuredTable(machines={FAST: ROWS.machines[FAST]}, models=ROWS.models)


def test_the_packaged_table_has_every_task_in_reach() -> None:
    assert {"classification", "ner", "qa", "vision"} <= set(packaged_table().tasks)
    assert {"en", "zh"} <= set(packaged_table().languages)
