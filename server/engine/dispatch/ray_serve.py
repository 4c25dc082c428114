"""Carries batches to a Ray Serve deployment: one call per batch, and a streaming call for an answer that comes in parts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from taskloom.core.errors import ConfigError, InternalError, MissingDependencyError, ReplicaLostError, UnavailableError
from taskloom.core.ports import BatchResult, PartSink, WorkItem
from taskloom.core.predictor import choose_runtime
from taskloom.core.registry import Registry
from taskloom.core.settings import PoolSettings
from taskloom.server.engine.cluster import MESSAGES, RayCluster
from taskloom.server.engine.replica import Replica, SentBatch, pack_items, unpack_result
from taskloom.server.engine.spec import ModelVersion, ReplicaSpec

log = logging.getLogger(__name__)

DEPLOYMENT = "replica"
STATUS_PERIOD_S = 1.0
"""How often the number of replicas is looked up. A change that was not seen yet costs batching, never an answer."""

TRANSPORT: Mapping[str, Any] = {"_by_reference": False, "request_serialization": "pickle", "response_serialization": "pickle"}
"""Straight to the replica by gRPC instead of through Ray's object store, which costs about a third less CPU for a batch of
short texts. The channel asks for the cluster's token as Ray's own do."""

CONSTRUCTOR_ATTEMPTS = 2
_LAST_ERROR = re.compile(r"^(?:[\w.]+\.)?(\w+(?:Error|Exception|Exit)): (.+)$", re.MULTILINE)


class RayDispatcher:
    """One pool as one Serve application. Replicas that die are replaced by Serve; their batches are lost at once, and tried
    again by the scheduler."""

    def __init__(self, spec: ReplicaSpec, cluster: RayCluster, registry: Registry) -> None:
        self._spec = replace(spec, settings=_with_threads(spec.settings))
        self._cluster = cluster
        self._registry = registry
        self._app = f"taskloom-{spec.pool}-{cluster.owner}"
        self._deployed = False
        self._handle: Any = None
        self._stream_handle: Any = None
        self._replicas = 0
        self._changed: Callable[[], None] = lambda: None
        self._poller: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._cluster.private:
            await self._cluster.run(self._check_gpus)
        await self._deploy(self._spec)
        application = await self._cluster.run(self._find)
        self._handle = application.options(**TRANSPORT)  # here, not in the thread: its router runs in the loop that makes it
        self._stream_handle = self._handle.options(stream=True, method_name="stream")
        await self._look()
        self._poller = asyncio.create_task(self._poll(), name=f"taskloom-status-{self._spec.pool}")

    def slots(self) -> int:
        """One replica's worth while none is up: the router holds that until one is, and with autoscaling from zero it is
        what brings one up."""
        return max(self._replicas, 1) if self._handle is not None else 0

    def standby_slots(self) -> int:
        return self.slots() * (self._spec.settings.batch.in_flight_per_replica - 1)

    def stream_slots(self) -> int:
        return self.slots() * self._spec.settings.batch.streams_per_replica

    def replicas(self) -> int:
        return self._replicas

    def watch(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    async def dispatch(self, items: Sequence[WorkItem], deadline_s: float | None) -> BatchResult:
        payload = pack_items(items)
        return await self._ask(lambda: self._handle.remote(payload, deadline_s), _whole)

    async def stream(self, item: WorkItem, deadline_s: float | None, send: PartSink) -> BatchResult:
        [payload] = pack_items([item])
        return await self._ask(lambda: self._stream_handle.remote(payload, deadline_s), partial(_in_parts, send=send))

    async def _ask(self, call: Callable[[], Any], read: Callable[[Any], Awaitable[SentBatch]]) -> BatchResult:
        import grpc
        from ray import exceptions as ray_errors
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        while True:
            response = call()
            try:
                return unpack_result(await read(response))
            except (BackPressureError, DeploymentUnavailableError):
                # Nothing has the batch. Its items keep their deadlines, and their callers may take them back meanwhile.
                await asyncio.sleep(STATUS_PERIOD_S)
            except ray_errors.RayTaskError as exc:
                log.error("the replica code of pool %s failed", self._spec.pool, exc_info=exc)
                raise InternalError("the replica failed on the whole batch; its log says why") from exc
            except (ray_errors.RayError, grpc.aio.AioRpcError) as exc:
                if isinstance(exc, grpc.aio.AioRpcError) and exc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise InternalError("a batch was larger than Ray carries; no replica has seen it") from exc
                raise ReplicaLostError(f"a replica of pool {self._spec.pool!r} died ({type(exc).__name__})") from exc
            except BaseException:  # nobody waits for it any more: it was cancelled, or what it tells is not taken
                response.cancel()
                raise

    async def roll(self, models: Sequence[ModelVersion]) -> None:
        """Serve starts each new replica beside an old one, then lets the old one finish what it has."""
        spec = replace(self._spec, models=tuple(models))
        try:
            await self._deploy(spec)
        except UnavailableError:
            await self._deploy(self._spec)
            raise
        self._spec = spec

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
        self._handle, self._replicas = None, 0
        deployed, self._deployed = self._deployed, False
        if deployed and not self._cluster.private:
            await self._cluster.run(self._delete)

    # -- deploying ----------------------------------------------------------------------------------------------------------

    async def _deploy(self, spec: ReplicaSpec) -> None:
        environment = _environment(spec, self._registry)
        self._deployed = True  # from here on there may be something that takes room, whether it starts or not
        await self._cluster.run(lambda: self._send_deployment(spec, environment))
        limit = time.monotonic() + spec.settings.start_timeout_s
        while True:
            status = await self._cluster.run(self._status)
            if status is not None and status.status == "RUNNING":
                return
            if status is not None and status.status == "DEPLOY_FAILED":
                raise UnavailableError(f"pool {spec.pool!r} does not start: {_reason(status)}")
            if time.monotonic() > limit:
                raise UnavailableError(
                    f"pool {spec.pool!r} was not up after {spec.settings.start_timeout_s:g} s (start_timeout_s): "
                    f"{_reason(status) if status is not None else 'Ray Serve does not know it'}"
                )
            await asyncio.sleep(0.1)

    def _check_gpus(self) -> None:
        """What a private cluster has not got it will never have; Ray would wait for it."""
        import ray

        there = float(ray.cluster_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]
        wanted = self._spec.settings.num_gpus
        if wanted > there:
            raise ConfigError(f"pools.{self._spec.pool}.num_gpus is {wanted:g}, and Ray finds {there:g} GPUs on this machine")

    def _send_deployment(self, spec: ReplicaSpec, environment: Mapping[str, str]) -> None:
        from ray import serve

        streams = any(self._registry.tasks.get(task).streams for task in spec.tasks())
        target = serve.deployment(**_options(spec, environment, streams))(Replica).bind(spec)
        serve.run_many([serve.RunTarget(target, name=self._app, route_prefix=None)], wait_for_applications_running=False)

    def _find(self) -> Any:
        from ray import serve

        return serve.get_app_handle(self._app)

    def _delete(self) -> None:
        from ray import serve

        serve.delete(self._app)

    # -- counting replicas ----------------------------------------------------------------------------------------------------

    def _status(self) -> Any:
        from ray import serve

        return serve.status().applications.get(self._app)

    async def _look(self) -> None:
        status = await self._cluster.run(self._status)
        deployment = status.deployments.get(DEPLOYMENT) if status is not None else None
        before = self._replicas
        self._replicas = deployment.replica_states.get("RUNNING", 0) if deployment is not None else 0
        if self._replicas > before:
            self._changed()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(STATUS_PERIOD_S)
            with contextlib.suppress(Exception):  # the controller restarts at times; the last count stands
                await self._look()


async def _whole(response: Any) -> SentBatch:
    result: SentBatch = await response
    return result


async def _in_parts(response: Any, send: PartSink) -> SentBatch:
    async for message in response:
        if not isinstance(message, str):
            result: SentBatch = message
            return result
        send(message)
    raise ReplicaLostError("a replica ended its answer before the end")


def _with_threads(pool: PoolSettings) -> PoolSettings:
    """A replica computes with the cores that it is given: replicas that each took all of them would wait for one another."""
    if pool.runtime.threads:
        return pool
    threads = max(1, round(pool.num_cpus))
    return pool.model_copy(update={"runtime": pool.runtime.model_copy(update={"threads": threads})})


def _options(spec: ReplicaSpec, environment: Mapping[str, str], streams: bool) -> dict[str, Any]:
    """Serve's defaults are for small web handlers; each one here was chosen for batches on a model. `streams` makes room for
    answers in parts beside them; a pool without such keeps the limit that spreads its batches evenly."""
    pool = spec.settings
    batch = pool.batch
    options: dict[str, Any] = {
        "name": DEPLOYMENT,
        "max_ongoing_requests": batch.in_flight_per_replica + (batch.streams_per_replica if streams else 0),
        "max_queued_requests": 64,
        "health_check_period_s": pool.canary_period_s,
        # The canary has its own deadline inside the replica; this one is for a replica that can't even say so.
        "health_check_timeout_s": pool.canary_timeout_s + 5,
        "max_surge_percent": 100,
        "graceful_shutdown_timeout_s": 20,
        "graceful_shutdown_wait_loop_s": 0.1,
        "max_constructor_retry_count": CONSTRUCTOR_ATTEMPTS,
        "ray_actor_options": {
            "num_cpus": pool.num_cpus,
            "num_gpus": pool.num_gpus,
            "runtime_env": {"env_vars": dict(environment)},
        },
    }
    if pool.autoscale is None:
        return options | {"num_replicas": pool.replicas}
    return options | {
        "autoscaling_config": {
            "min_replicas": pool.autoscale.min_replicas,
            "max_replicas": pool.autoscale.max_replicas,
            "target_ongoing_requests": pool.autoscale.target_ongoing_batches,
            "upscale_delay_s": pool.autoscale.upscale_delay_s,
            "downscale_delay_s": pool.autoscale.downscale_delay_s,
        }
    }


def _environment(spec: ReplicaSpec, registry: Registry) -> dict[str, str]:
    """What the replica's process must find in its environment before any library is imported: thread counts (Ray would set
    one thread for each whole CPU), what the runtime wants, then what the operator says."""
    config = spec.settings.runtime
    environment = {"OMP_NUM_THREADS": str(config.threads), **MESSAGES}
    with contextlib.suppress(MissingDependencyError):  # this process only dispatches, and need not be able to run models
        environment.update(choose_runtime(registry, config.runtime).environment(config))
    return environment | dict(spec.settings.environment)


def _reason(status: Any) -> str:
    """The cause in a sentence: the last exception that a replica's traceback ends with, else Serve's own words."""
    told = "\n".join([status.message, *(d.message for d in status.deployments.values())])
    errors = _LAST_ERROR.findall(told)
    return f"{errors[-1][0]}: {errors[-1][1]}" if errors else (told.strip() or "no reason was given")
