"""Sequence-level distillation (Kim & Rush 2016, https://arxiv.org/abs/1606.07947, section 3.2): a student that writes learns
what its teacher writes, in the place of the rows' own targets."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taskloom.core.errors import UnsupportedError
from taskloom.core.optimizer import OptimizeContext, Optimized
from taskloom.core.task import Example, TaskModel, TaskPlugin
from taskloom.plugins._shared.training import pick_device
from taskloom.plugins._shared.tuning import InMemory, tune, tuning_fingerprint
from taskloom.plugins.optimizers.distill.config import DistillConfig
from taskloom.plugins.optimizers.distill.lessons import lessons
from taskloom.plugins.optimizers.distill.panel import Panel
from taskloom.plugins.optimizers.distill.student import keep_layers, parameters

WRITTEN_AT_ONCE = 16
ANSWERS = "answers-{}.jsonl"


def distill_writer(
    student: TaskModel[Any, Any, Any],
    panel: Panel,
    config: DistillConfig,
    context: OptimizeContext,
    facts: dict[str, Any],
) -> Optimized:
    """`student`, with the layers that it keeps, trained on what each of the teachers writes by its own settings (its beams)."""
    for setting in ("hidden_weight", "relation_weight", "augment"):
        if getattr(config, setting):
            raise UnsupportedError(
                f"distill: {setting} is for answers of a fixed form; a student that writes learns whole answers. Leave it open"
            )
    kept = keep_layers(student, config)
    student.module.requires_grad_(True)
    rows = lessons(context.task, context.train, config, None)
    fingerprint = " ".join([tuning_fingerprint(student, dataclasses.replace(context, train=rows), config), *panel.digests])
    taught: list[Example[Any]] = []
    for number, teacher in enumerate(panel.models):
        teacher.module.to(pick_device(config.device)).requires_grad_(False).eval()
        path = context.run.work_folder / ANSWERS.format(number)
        taught += written_rows(teacher, context.task, rows, path, fingerprint)
        teacher.module.to("cpu")
    result = tune(student, student, dataclasses.replace(context, train=taught), config, fingerprint=fingerprint)
    return Optimized(
        student,
        {
            **result.facts,
            **facts,
            "answers": "written by the teacher, in the place of the rows' own targets",
            "kept_layers": kept,
            "parameters": parameters(student.module),
            "teacher_parameters": sum(parameters(teacher.module) for teacher in panel.models),
            "history": [dict(row) for row in result.history],
        },
    )


def written_rows(
    teacher: TaskModel[Any, Any, Any],
    task: TaskPlugin[Any, Any, Any],
    rows: Sequence[Example[Any]],
    path: Path,
    fingerprint: str,
) -> list[Example[Any]]:
    """The rows with what the teacher writes as their targets. It is kept at `path`, line by line, so that an interrupted step
    goes on behind the last whole line."""
    known = _known(path, fingerprint)
    executor, params = InMemory(teacher), task.Params()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text("".join(line + "\n" for line in (json.dumps({"fingerprint": fingerprint}), *known)), encoding="utf-8")
    os.replace(aside, path)
    with path.open("a", encoding="utf-8") as stream:
        for start in range(len(known), len(rows), WRITTEN_AT_ONCE):
            inputs = [row.input for row in rows[start : start + WRITTEN_AT_ONCE]]
            asked = [params] * len(inputs)
            outputs = teacher.decode(executor.run(teacher.prepare(inputs, asked)), inputs, asked)
            lines = [output.model_dump_json() for output in outputs]
            stream.writelines(line + "\n" for line in lines)
            stream.flush()
            known += lines
    targets = [teacher.as_target(task.Output.model_validate_json(line)) for line in known]
    return [row.model_copy(update={"target": target}) for row, target in zip(rows, targets, strict=True)]


def _known(path: Path, fingerprint: str) -> list[str]:
    """The whole lines behind a first one with this fingerprint; none of a file of another training."""
    if not path.is_file():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    first, *rest = whole.decode("utf-8").split("\n")
    try:
        return rest if json.loads(first) == {"fingerprint": fingerprint} else []
    except json.JSONDecodeError:
        return []
