"""The model card: what somebody needs to know before they use a model (Mitchell et al. 2019,
https://arxiv.org/abs/1810.03993), made from the manifest, the report and what its owner says."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from taskloom.core.artifact import BackboneInfo, Manifest
from taskloom.core.comparison import PAGE
from taskloom.core.figures_told import sizes_and_speeds
from taskloom.core.task import TaskPlugin

if TYPE_CHECKING:
    from taskloom.core.comparison import Comparison
    from taskloom.core.publishing import ModelStory, Report


USE, LIMITS = "What it is for", "Limits"
NO_USE = "Its owner has not said what it is meant for; judge by the data that it was trained on."
NO_LIMITS = "Its owner has not listed limits. On texts unlike its training data, expect less than is stated here."

PER_CLASS = ("label", "precision", "recall", "f1", "support")
"""The columns of a table `per_class`."""


def model_card(manifest: Manifest, report: Report, story: ModelStory, task: TaskPlugin[Any, Any, Any]) -> str:
    """The card as Markdown, with a YAML head that model hubs read."""
    parts = [
        _head(manifest),
        f"# {manifest.model}",
        manifest.description or f"A {task.name} model.",
        _facts(manifest),
        "## How to call it",
        _calls(manifest, task),
        f"## {USE}",
        story.intended_use or NO_USE,
        f"## {LIMITS}",
        story.limits or NO_LIMITS,
        task.caution,
        "## How good it is",
        _measured(report, task),
        *(["## Compared with its parent", _compared(report.comparison)] if report.comparison is not None else []),
        "## What it was made from",
        _data(manifest),
        "## How it was made",
        _lineage(manifest),
        _reproduce(story),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def told_in_card(card: str, task: TaskPlugin[Any, Any, Any]) -> tuple[str, str]:
    """What a card says of its model's intended use and limits, as its owner wrote them; empty where nothing was said."""
    sections = dict(re.findall(r"^## (.+?)\n\n(.*?)(?=^## |\Z)", card, flags=re.M | re.S))
    use, limits = (sections.get(name, "").strip() for name in (USE, LIMITS))
    if task.caution:
        limits = limits.removesuffix(task.caution).strip()
    return use if use != NO_USE else "", limits if limits != NO_LIMITS else ""


def _head(manifest: Manifest) -> str:
    lines = ["---", f"model_name: {json.dumps(manifest.model)}"]
    if manifest.languages:
        lines.append(f"language: {json.dumps(list(manifest.languages))}")
    if manifest.licence:
        lines.append(f"license: {json.dumps(manifest.licence)}")
    if manifest.backbone:
        lines.append(f"base_model: {json.dumps(manifest.backbone.id)}")
    lines += [f"tags: {json.dumps(['taskloom', manifest.task])}", "---"]
    return "\n".join(lines)


def _facts(manifest: Manifest) -> str:
    rows = [("Task", manifest.task), ("Languages", ", ".join(manifest.languages)), ("Licence", manifest.licence)]
    if manifest.backbone is not None:
        rows.append(("Backbone", _backbone(manifest.backbone)))
    if manifest.labels:
        rows.append(("Labels", f"{len(manifest.labels)}, listed at the end of the metrics"))
    if manifest.parent is not None:
        rows.append(("Made from", f"{manifest.parent.model}@{manifest.parent.version}"))
    rows.append(("Published", manifest.created))
    return _table(("", ""), [(name, value) for name, value in rows if value])


def _backbone(backbone: BackboneInfo) -> str:
    licence = f", {backbone.licence}" if backbone.licence else ""
    digest = f", SHA-256 `{backbone.digest[:16]}…`" if backbone.digest else ""
    return f"{backbone.id}{licence}{digest}"


def _calls(manifest: Manifest, task: TaskPlugin[Any, Any, Any]) -> str:
    example = _example(manifest, task)
    files = _file_fields(task)
    fields = ", ".join(f"{name!r}: {_in_python(name, value, files)}" for name, value in example.items())
    return "\n".join(
        [
            "From the command line, in this process:",
            "",
            "```bash",
            f"taskloom predict {manifest.model} {_in_shell(example, task, files)} --local",
            "```",
            "",
            "From Python, through a gateway (`taskloom serve`):",
            "",
            "```python",
            *(["from pathlib import Path", ""] if files & example.keys() else []),
            "from taskloom.sdk import Client",
            "",
            "with Client() as client:",
            f"    result = client.infer({manifest.model!r}, {{{fields}}})",
            "    print(result.output)",
            "```",
        ]
    )


def _file_fields(task: TaskPlugin[Any, Any, Any]) -> frozenset[str]:
    """The input fields that are the bytes of a file; examples have them in base64, which nobody wants to read."""
    fields = task.Input.model_json_schema().get("properties", {})
    return frozenset(name for name, field in fields.items() if "base64" in (field.get("contentEncoding"), field.get("format")))


def _in_shell(example: Mapping[str, Any], task: TaskPlugin[Any, Any, Any], files: frozenset[str]) -> str:
    if list(example) == [task.text_field]:
        return shlex.quote(str(example[str(task.text_field)]))
    words = []
    for name, value in example.items():
        text = "@FILE" if name in files else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        words.append(f"{name}={shlex.quote(text)}")
    return " ".join(words)


def _in_python(name: str, value: Any, files: frozenset[str]) -> str:
    return "Path('FILE').read_bytes()" if name in files else repr(value)


def _example(manifest: Manifest, task: TaskPlugin[Any, Any, Any]) -> Mapping[str, Any]:
    """The model's own first example; else the schema's first in one of the model's languages, as well as can be told from the
    letters."""
    if manifest.examples:
        return manifest.examples[0]
    extra = task.Input.model_json_schema().get("examples", [])
    plain = [e for e in extra if isinstance(e, dict)]
    chinese = any(language.startswith("zh") for language in manifest.languages)
    fitting = [e for e in plain if json.dumps(e, ensure_ascii=False).isascii() != chinese]
    return next(iter(fitting or plain), {})


def _measured(report: Report, task: TaskPlugin[Any, Any, Any]) -> str:
    evaluation, data, plan = report.evaluation, report.evaluation_data, report.plan
    rows = []
    for metric in task.metrics:
        low, high = evaluation.intervals.get(metric.name, (None, None))
        interval = f"{low:.4f} to {high:.4f}" if low is not None and high is not None else ""
        name = f"**{metric.name}**" if metric.name == task.primary_metric else metric.name
        better = "" if metric.higher_is_better else " (lower is better)"
        rows.append((name, f"{evaluation.metrics[metric.name]:.4f}", interval, metric.description + better))
    where = (
        f"Measured on {evaluation.examples} examples that it was not trained on (`{data.name}`, SHA-256 "
        f"`{data.sha256[:16]}…`). "
        "Intervals are 95% bootstrap intervals over these examples; they say nothing about other data or another training."
    )
    ran = (
        f"Run with {plan.runtime} on {plan.device} in {plan.precision}, {plan.threads} threads ({report.machine.processor}, "
        f"Python {report.machine.python}), {report.created}. `report.json` has every table."
    )
    pictures = "\n".join(f"![{name.rpartition('/')[2].removesuffix('.png')}]({name})" for name in evaluation.figures)
    metrics = _table(("Metric", "Value", "95% interval", "Meaning"), rows)
    files, classes = _each_file(evaluation.tables.get("per_file", ())), _worst_classes(evaluation.tables.get("per_class", ()))
    return "\n\n".join(part for part in [where, metrics, ran, files, classes, pictures] if part)


def _compared(comparison: Comparison) -> str:
    """The figures that decide whether it may take its parent's place; the page has all of them."""
    rows = []
    for change in comparison.metrics:
        interval = f"{change.low:+.4f} to {change.high:+.4f}" if change.low is not None and change.high is not None else ""
        name = f"**{change.name}**" if change.name == comparison.primary else change.name
        rows.append((name, f"{change.parent:.4f}", f"{change.candidate:.4f}", f"{change.difference:+.4f}", interval))
    rows += [(*pair.told(), "") for pair in sizes_and_speeds(comparison)]
    worst = comparison.worst_class
    lines = [
        f"Both were measured in the same run, on the same rows; intervals are of the difference. `{PAGE}` has every figure.",
        _table(("", comparison.parent_name, "this version", "change", "95% interval"), rows),
        f"It answers {comparison.rows.changed:.1%} of {comparison.rows.rows} rows differently."
        + (f" The class that lost most is `{worst.name}`: F1 {worst.parent:.4f} to {worst.candidate:.4f}." if worst else ""),
    ]
    return "\n\n".join(lines)


def _each_file(table: Iterable[tuple[str | float | int, ...]]) -> str:
    rows = [tuple(str(value) for value in row) for row in table]
    return f"Each of the files apart:\n\n{_table(rows[0], rows[1:])}" if rows else ""


def _worst_classes(table: Iterable[tuple[str | float | int, ...]]) -> str:
    header, *rows = list(table) or [()]
    if not rows or tuple(header) != PER_CLASS:
        return ""
    worst = sorted((row for row in rows if row[4]), key=lambda row: float(row[3]))[:10]
    shown = _table(("Label", "Precision", "Recall", "F1", "Rows"), [tuple(str(value) for value in row) for row in worst])
    names = ", ".join(f"`{row[0]}`" for row in rows)
    return f"The labels that it finds hardest:\n\n{shown}\n\nAll labels: {names}."


def _data(manifest: Manifest) -> str:
    if not manifest.data:
        return "No data files are recorded."
    rows = [(f"`{d.name}`", str(d.rows), d.licence, d.source, f"`{d.sha256[:16]}…`") for d in manifest.data]
    header = ("File", "Rows", "Licence", "Source", "SHA-256")
    if not any(d.via for d in manifest.data):
        return _table(header, rows)
    trained = [d.via or "this model" for d in manifest.data]
    return _table((*header, "Trained on it"), [(*row, model) for row, model in zip(rows, trained, strict=True)])


def _lineage(manifest: Manifest) -> str:
    lines = []
    for number, step in enumerate(manifest.steps, start=1):
        settings = json.dumps(step.config, ensure_ascii=False, sort_keys=True)
        facts = ", ".join(f"{key} {value}" for key, value in step.facts.items() if isinstance(value, str | int | float))
        lines.append(f"{number}. **{step.name}** ({facts})\n\n   ```json\n   {settings}\n   ```")
    others = list(dict.fromkeys(d.via for d in manifest.data if d.via))
    if others:
        lines.insert(0, f"It was made from {', '.join(others)}, whose own cards say how those were made.")
    packages = ", ".join(f"{name} {version}" for name, version in manifest.packages.items())
    return "\n\n".join([*lines, f"Packages: {packages}."])


def _reproduce(story: ModelStory) -> str:
    if not story.reproduce:
        return ""
    commands = "\n".join(story.reproduce)
    return f"## How to make it again\n\n```bash\n{commands}\n```"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
