"""What quantization gains on this machine: each mode against the fp32 model on torch, in one run, turn by turn.

    python benchmarks/quantize.py --model models/intent-en/1 --threads 1

Calibration rows are texts alone, so nothing is searched for: the figures are of all layers in int8.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taskloom.core.artifact import Artifact
from taskloom.core.loader import load_registry
from taskloom.core.optimizing import Optimizing, StepRequest
from taskloom.core.predictor import Predictor, load_predictor
from taskloom.core.publishing import draft_artifact, write_model
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.task import Example, SharedParts, TaskPlugin, TrainRun
from taskloom.plugins.backbones.task_model import EncoderTaskModel

SHAPES = tuple((batch, tokens) for batch in (1, 8) for tokens in (16, 128))
MODES = ("static", "dynamic", "bf16")


def main() -> None:
    arguments = _arguments()
    registry = load_registry()
    parent = Artifact.open(arguments.model)
    task = registry.tasks.get(parent.manifest.task)
    texts = [line for line in arguments.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = [Example(input=task.Input.model_validate({task.text_field: text}), target=None) for text in texts]
    config = RuntimeConfig(device="cpu", precision="fp32", threads=arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        run = TrainRun(work_folder=Path(folder), show_progress=False)
        optimizing = Optimizing(
            registry, parent, train=rows, validation=[], identity=[str(arguments.texts)], run=run, runtime=config
        )
        (Path(folder) / "fp32").mkdir()
        made = {"fp32": _fp32(parent, task, Path(folder) / "fp32")}
        for mode in arguments.modes:
            began = time.perf_counter()
            settings = {"mode": mode, "calibration_rows": arguments.rows, "any_processor": not arguments.eight_bits}
            chain = optimizing.run([StepRequest(name="quantize", config=settings)])
            made[mode] = chain.artifact
            print(f"{mode}: made in {time.perf_counter() - began:.0f} s; {dict(chain.steps[0].facts)}", flush=True)
        predictors = {name: load_predictor(registry, artifact, config) for name, artifact in made.items()}
        _agreement(predictors, rows)
        _sizes(made)
        _speed(predictors, texts, arguments.rounds)


def _fp32(parent: Artifact, task: TaskPlugin[Any, Any, Any], folder: Path) -> Artifact:
    """The parent with its adapter merged and its backbone beside it: what the quantized ones are compared with."""
    model = task.load(parent, SharedParts())
    if isinstance(model, EncoderTaskModel):
        model.own_backbone()
    config = write_model(folder, model, {})
    return draft_artifact(folder, parent.manifest.model_copy(update={"config": config, "version": "fp32"}))


def _agreement(predictors: Mapping[str, Predictor[Any, Any, Any]], rows: Sequence[Example[Any]]) -> None:
    inputs = [row.input for row in rows]
    said = {name: [each.task.answer(output) for output in each.predict(inputs)] for name, each in predictors.items()}
    for name, answers in said.items():
        same = sum(one == other for one, other in zip(answers, said["fp32"], strict=True))
        print(f"{name:8} same answer as fp32: {same}/{len(answers)}")


def _sizes(made: Mapping[str, Artifact]) -> None:
    sizes = {name: sum(file.size_bytes for file in artifact.manifest.files.values()) for name, artifact in made.items()}
    for name, size in sizes.items():
        print(f"{name:8} {size / 1e6:7.1f} MB  {size / sizes['fp32']:.3f}")


def _speed(predictors: Mapping[str, Predictor[Any, Any, Any]], texts: Sequence[str], rounds: int) -> None:
    """Medians of `executor.run`, the modes taking turns."""
    for batch, tokens in SHAPES:
        prepared = {name: _batch(each, texts, batch, tokens) for name, each in predictors.items()}
        times: dict[str, list[float]] = {name: [] for name in predictors}
        for turn in range(rounds + 3):
            for name, each in predictors.items():
                began = time.perf_counter()
                each.executor.run(prepared[name])
                if turn >= 3:
                    times[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        told = "  ".join(f"{name} {1e3 * s:.1f} ms ({medians['fp32'] / s:.2f}x)" for name, s in medians.items())
        print(f"batch {batch} x {tokens} tokens: {told}", flush=True)


def _batch(predictor: Predictor[Any, Any, Any], texts: Sequence[str], count: int, tokens: int) -> Mapping[str, Any]:
    """`count` inputs of exactly `tokens` tokens, special ones included."""
    whole = " ".join(texts)
    tokenizer = predictor.model.parts.tokenizer.cut_at(tokens)  # type: ignore[attr-defined]
    words = whole.split()
    inputs = [" ".join(words[17 * i :]) for i in range(count)]
    found = tokenizer.encode(inputs)
    assert found.lengths.tolist() == [tokens] * count
    params = [predictor.task.Params()] * count
    given = predictor.model.prepare(
        [predictor.task.Input.model_validate({predictor.task.text_field: text}) for text in inputs], params
    )
    return {
        **given,
        "input_ids": found.input_ids,
        "token_type_ids": found.token_type_ids,
        "lengths": found.lengths,
        "truncated": found.truncated,
    }


def _arguments() -> argparse.Namespace:
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=here / "models" / "intent-en" / "1", help="an artifact's folder")
    parser.add_argument("--texts", type=Path, default=here / "sdk" / "bench_texts.txt")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--rows", type=int, default=100, help="calibration rows")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--eight-bits", action="store_true", help="weights in all 8 bits (any_processor = false)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
