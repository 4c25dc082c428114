"""The engine over a real Ray cluster. One cluster serves every test of this file."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import grpc
import psutil
import pytest
import pytest_asyncio
from engine_fakes import make_registry, publish

from taskloom.core.errors import ConfigError, DeadlineExceededError, ModelFailedError, TaskloomError
from taskloom.core.settings import Settings
from taskloom.core.store import ModelStore
from taskloom.core.types import InferCall, InferResult, ModelRef
from taskloom.server.engine.dispatch.ray_serve import RayDispatcher
from taskloom.server.engine.engine import Engine

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

FAKES = Path(__file__).parent / "fakes"
WAIT_S = 60.0


def call(model: str, text: str, **fields: object) -> InferCall:
    return InferCall(model=ModelRef.parse(model), input={"text": text}, **fields)


async def until(true: Callable[[], bool], limit_s: float = WAIT_S) -> None:
    async with asyncio.timeout(limit_s):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.05)


def replica_pool(ran: Path, **changes: object) -> dict[str, object]:
    found = ":".join(dict.fromkeys([str(FAKES), *(p for p in sys.path if p)]))
    environment = {"PYTHONPATH": found, "TASKLOOM_TEST_RAN": str(ran)}
    canary = {"canary_period_s": 0.5, "canary_timeout_s": 3.0, "start_timeout_s": 60.0}
    return {"replicas": 1, "num_cpus": 0.1, "environment": environment, **canary, **changes}


class Served:
    """The engine, its store, and who is behind it."""

    def __init__(self, engine: Engine, store: ModelStore, ran: Path) -> None:
        self.engine = engine
        self.store = store
        self._ran = ran

    def ran(self) -> list[str]:
        return self._ran.read_text().splitlines() if self._ran.exists() else []

    async def pids(self, model: str) -> set[int]:
        """The replicas that answer now."""
        answers = await asyncio.gather(*(self.engine.infer(call(model, f"who{n}" * 200)) for n in range(12)))
        return {answer.output["pid"] for answer in answers}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """Pools: `one` with a replica for the `solo` models, `two` with two for the `pair` models. Batches are small, so that
    load reaches every replica."""
    home = tmp_path_factory.mktemp("ray")
    ran = home / "ran"
    store = ModelStore([home / "models"])
    for model in ("solo", "pair"):
        publish(store, f"{model}-echo", "echo")
        publish(store, f"{model}-slow", "slow")
        publish(store, f"{model}-risky", "poison")
    pools = {"one": replica_pool(ran), "two": replica_pool(ran, replicas=2, batch={"max_cost": 800, "max_items": 4})}
    models = {name: {"pool": "one" if name.startswith("solo") else "two"} for name in store.models()}
    settings = Settings(home=home, pools=pools, models=models, server={"model_poll_s": 0.2, "drain_s": 5})
    engine = Engine.from_settings(
        settings, make_registry(), dispatcher="ray", store=store, registry_factory="engine_fakes:make_registry"
    )
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    await engine.start()
    family = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert family
    yield Served(engine, store, ran)
    family += [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    await engine.close()
    left = [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert left == [], "Ray processes outlived the engine"
    assert stat.S_IMODE((home / "ray-token").stat().st_mode) == 0o600


class Load:
    """Callers that never stop asking. Whatever goes wrong is kept."""

    def __init__(self, engine: Engine, model: str, text: str = "x", callers: int = 8) -> None:
        self.answers: list[InferResult] = []
        self.failures: list[TaskloomError] = []
        self._engine = engine
        self._call = (model, text)
        self._stop = False
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(callers)]

    async def _ask(self) -> None:
        while not self._stop:
            try:
                self.answers.append(await self._engine.infer(call(*self._call)))
            except TaskloomError as exc:
                self.failures.append(exc)

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)


async def test_a_batch_goes_to_a_replica_and_comes_back_with_every_answer(served: Served) -> None:
    calls = [call("solo-echo", f"t{n} 中", params={"shout": n % 2 == 1}) for n in range(64)]
    results = await asyncio.gather(*(served.engine.infer(c) for c in calls))
    assert [r.output["text"] for r in results] == [f"{'T' if n % 2 else 't'}{n} 中" for n in range(64)]
    assert os.getpid() not in {r.output["pid"] for r in results}
    assert max(r.timings.batch_size for r in results) == 64
    assert served.engine.health()[""] is True


async def test_what_the_gateway_takes_a_replica_takes_too(served: Served) -> None:
    """Ray's own limit is 4 MiB for a whole batch."""
    calls = [call("solo-echo", letter * 5_000_000) for letter in "abc"]
    results = await asyncio.gather(*(served.engine.infer(c) for c in calls))
    assert [(r.output["text"][0], len(r.output["text"])) for r in results] == [(c, 5_000_000) for c in "abc"]


async def test_gpus_that_are_not_there_are_not_waited_for(served: Served) -> None:
    there = served.engine._pools["one"].dispatcher
    assert isinstance(there, RayDispatcher)
    settings = there._spec.settings.model_copy(update={"num_gpus": 300.0})
    dispatcher = RayDispatcher(replace(there._spec, settings=settings), there._cluster, make_registry())
    with pytest.raises(ConfigError, match=r"pools\.one\.num_gpus is 300, and Ray finds"):
        await dispatcher.start()


async def test_batches_leave_from_the_loop_that_the_engine_runs_in(served: Served) -> None:
    await served.engine.infer(call("pair-echo", "x"))
    handles = [pool.dispatcher._handle for pool in served.engine._pools.values()]  # type: ignore[attr-defined]
    assert [handle.init_options._run_router_in_separate_loop for handle in handles] == [False, False]


async def test_one_poison_among_32_gives_31_answers_and_one_typed_error(served: Served) -> None:
    texts = ["poison" if n == 9 else f"t{n}" for n in range(32)]
    results = await asyncio.gather(*(served.engine.infer(call("solo-risky", t)) for t in texts), return_exceptions=True)
    assert isinstance(results[9], ModelFailedError)
    assert "secret" not in str(results[9])
    assert sum(isinstance(r, InferResult) for r in results) == 31


async def test_expired_work_does_not_run(served: Served) -> None:
    busy = [asyncio.create_task(served.engine.infer(call("solo-slow", "sleep 0.6"))) for _ in range(2)]
    await asyncio.sleep(0.1)
    busy.append(asyncio.create_task(served.engine.infer(call("solo-slow", "sleep 0.5"))))
    await asyncio.sleep(0.1)
    late = [served.engine.infer(call("solo-slow", f"late{n}", deadline_s=time.time() + 0.2)) for n in range(3)]
    assert {type(e) for e in await asyncio.gather(*late, return_exceptions=True)} == {DeadlineExceededError}
    await asyncio.gather(*busy)
    await served.engine.infer(call("solo-slow", "after"))
    assert "after" in served.ran()
    assert not [text for text in served.ran() if text.startswith("late")]


async def test_cancelled_work_that_has_not_begun_does_not_run(served: Served) -> None:
    busy = asyncio.create_task(served.engine.infer(call("solo-slow", "sleep 0.7")))
    await asyncio.sleep(0.1)
    also = asyncio.create_task(served.engine.infer(call("solo-slow", "sleep 0.4")))
    await asyncio.sleep(0.1)
    gone = [asyncio.create_task(served.engine.infer(call("solo-slow", f"gone{n}"))) for n in range(3)]
    await asyncio.sleep(0.1)
    for task in gone:
        task.cancel()
    await asyncio.gather(busy, also)
    await served.engine.infer(call("solo-slow", "still here"))
    assert "still here" in served.ran()
    assert not [text for text in served.ran() if text.startswith("gone")]


@pytest.mark.parametrize(("prefix", "replicas"), [("pair", 2), ("solo", 1)])
async def test_killing_a_replica_under_load_fails_no_call(served: Served, prefix: str, replicas: int) -> None:
    load = Load(served.engine, f"{prefix}-slow")
    await until(lambda: len({a.output["pid"] for a in load.answers}) == replicas)
    victim = load.answers[-1].output["pid"]
    os.kill(victim, signal.SIGKILL)
    since = len(load.answers)
    await until(lambda: len({a.output["pid"] for a in load.answers[since:]} - {victim}) == replicas)
    await load.stop()
    assert load.failures == []


async def test_an_input_that_kills_its_process_fails_alone(served: Served) -> None:
    texts = ["kill" if n == 5 else f"t{n}" for n in range(16)]
    results = await asyncio.gather(*(served.engine.infer(call("pair-risky", t)) for t in texts), return_exceptions=True)
    assert isinstance(results[5], ModelFailedError)
    assert "died" in str(results[5])
    assert [r.output["text"] for r in results if isinstance(r, InferResult)] == [t for t in texts if t != "kill"]


async def test_a_hung_replica_is_replaced_and_its_work_done_by_another(served: Served, tmp_path: Path) -> None:
    before = await served.pids("solo-risky")
    result = await served.engine.infer(call("solo-risky", f"hang {tmp_path / 'cured'}"))
    assert result.output["pid"] not in before


async def test_a_replica_busy_for_longer_than_its_canary_period_is_left_alone(served: Served) -> None:
    before = await served.pids("solo-slow")
    await asyncio.gather(*(served.engine.infer(call("solo-slow", "sleep 2.2")) for _ in range(3)))
    assert await served.pids("solo-slow") == before


async def test_a_roll_under_load_fails_no_call_and_never_goes_back(served: Served) -> None:
    publish(served.store, "pair-echo", "echo", aliases=["candidate"])
    load = Load(served.engine, "pair-echo")
    await asyncio.sleep(0.5)
    assert {a.version for a in load.answers} == {"1"}
    served.store.set_alias("pair-echo", "production", "2")
    await until(lambda: served.engine.prepare(call("pair-echo", "x")).version == "2")
    since = len(load.answers)
    await asyncio.sleep(1.0)
    await load.stop()
    assert load.failures == []
    assert {a.version for a in load.answers[since + 16 :]} == {"2"}
    assert served.engine.health()[""] is True


async def test_a_version_that_does_not_load_leaves_the_old_one_serving(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    load = Load(served.engine, "solo-echo", callers=2)
    publish(served.store, "solo-echo", "echo", aliases=["production"], broken=True)
    await until(lambda: any("stay as they are" in r.message for r in caplog.records))
    await load.stop()
    assert load.failures == []
    assert (await served.engine.infer(call("solo-echo", "x"))).version == "1"
    assert "does not load" in caplog.text
    assert "ArtifactError" in caplog.text
    served.store.set_alias("solo-echo", "production", "1")


async def test_whoever_has_no_token_is_refused_wherever_a_replica_listens_beyond_loopback(served: Served) -> None:
    pids = await served.pids("pair-echo") | await served.pids("solo-echo")
    listening = [c for pid in pids for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    open_ports = [c.laddr.port for c in listening if c.laddr.ip in ("::", "0.0.0.0")]
    for port in open_ports:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(b"", timeout=5)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_after_a_ctrl_c_no_process_is_left_and_ray_has_said_nothing(tmp_path: Path) -> None:
    """In a process of its own, since Ray knows one cluster per process; the signal goes to all of its group, as the
    terminal sends it."""
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(FAKES)!r})
from engine_fakes import ModelStore, make_registry, publish
from pathlib import Path
from taskloom.core.settings import Settings
from taskloom.server.engine.engine import Engine

async def main():
    home = Path({str(tmp_path)!r})
    store = ModelStore([home / "models"])
    publish(store, "good", "echo")
    pool = {replica_pool(tmp_path / "ran")!r}
    settings = Settings(home=home, pools={{"default": pool}})
    engine = Engine.from_settings(
        settings, make_registry(), dispatcher="ray", store=store, registry_factory="engine_fakes:make_registry"
    )
    await engine.start()
    try:
        print("up", flush=True)
        await asyncio.sleep(100)
    finally:
        await engine.close()

asyncio.run(main())
"""
    child = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    family: list[psutil.Process] = []
    try:
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline) == "up\n", child.stderr.read() if child.stderr else ""
        family = psutil.Process(child.pid).children(recursive=True)
        inherited = os.stat(f"/proc/{child.pid}/fd/0").st_ino
        for process in family:
            assert os.stat(f"/proc/{process.pid}/fd/0").st_ino != inherited, "a Ray process can read the terminal"
        os.killpg(child.pid, signal.SIGINT)
        out, err = await asyncio.to_thread(child.communicate, None, 60)
    finally:
        if child.poll() is None:
            child.kill()
    assert out == ""
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert "raylet" not in err
    assert "serve" not in err.replace("server/engine", ""), err
    assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
