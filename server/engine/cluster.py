"""The Ray cluster: a private one that lives and dies with this process, or one that is joined.

A private cluster listens on loopback, asks for its own token, has no dashboard and no Serve proxies, keeps its files in a
temporary folder that goes with it, and says nothing on the terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import psutil

from taskloom.core.digest import sha256_hex
from taskloom.core.errors import UnavailableError
from taskloom.core.settings import Settings
from taskloom.core.store import write_atomically

log = logging.getLogger(__name__)

T = TypeVar("T")

NAMESPACE = "taskloom"
TOKEN_FILE = "ray-token"  # noqa: S105 - the name of the file, not a token
SHORT_PATH = 24
"""Ray puts Unix sockets below its folder, and their paths are limited to 107 bytes: longer parents are passed over."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would call home
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # ten turns a second, the default, cost some per cent of a core
    # Batches go out from the gateway's own event loop: a thread for the router, which every batch and answer must be handed
    # to, cost the gateway an eighth of its time. The price: what the router asks of Ray's store of nodes and actors when it
    # begins, and for each replica that it meets first, holds the loop up for some milliseconds.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # a hung replica does not stop when it is asked to
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # it prints a stack, as of a crash, whenever a server is told to stop
}

MESSAGES = {"RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1)}
"""Ray's own limit of 4 MiB for what goes to a replica is less than one request may have (`server.max_message_bytes`) when its
bytes are text, and a batch has many. Read by the gateway and by replicas."""

_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Off, Ray takes 127.0.0.1 for its node's address, and its servers listen there alone; `_node_ip_address="127.0.0.1"` is
replaced by an outward address otherwise. Read when Ray is first imported."""


class RayCluster:
    """Started before the dispatchers that use it, closed after them. Async; Ray's blocking calls are made in one thread,
    which outlives them all: the kernel ties the life of Ray's processes to the thread that started them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread: ThreadPoolExecutor | None = None
        self._folder: Path | None = None

    @property
    def private(self) -> bool:
        return self._settings.ray.address is None

    @property
    def owner(self) -> str:
        """Whose the applications on the cluster are: those of another home's gateway are left alone, and those that this one's
        left behind when it was killed are taken up, on whatever host."""
        return sha256_hex(_own_token(self._settings.home / TOKEN_FILE).encode())[:8]

    async def start(self) -> None:
        """Raises `UnavailableError` if Ray can't be started or joined."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="taskloom-ray")
        try:
            await self.run(self._start_private if self.private else self._join)
        except Exception as exc:
            what = "started" if self.private else f"joined at {self._settings.ray.address}"
            raise UnavailableError(f"Ray can't be {what} ({type(exc).__name__}: {exc}); see `taskloom doctor`") from exc

    async def run(self, call: Callable[[], T]) -> T:
        """The result of a blocking call of Ray's."""
        if self._thread is None:
            raise UnavailableError("the Ray cluster is not running")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def close(self) -> None:
        """Leaves no process and no file of a private cluster. Safe to call twice, and after a failed start."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._stop)
            thread.shutdown(wait=False)

    # -- in the thread ----------------------------------------------------------------------------------------------------

    def _start_private(self) -> None:
        os.environ.update(_QUIET | MESSAGES | _LOOPBACK)
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = _own_token(self._settings.home / TOKEN_FILE)
        self._folder = _short_folder()
        with _no_stdin(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own, about its own use of its dependencies
            import ray

            _hush()
            _forget_token()
            with _set_apart():
                ray.init(
                    address="local",
                    namespace=NAMESPACE,
                    num_cpus=self._settings.ray.num_cpus or _enough_cpus(self._settings),
                    object_store_memory=self._settings.ray.object_store_bytes,
                    include_dashboard=self._settings.ray.dashboard,
                    dashboard_host="127.0.0.1",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(self._folder),
                )
            self._start_serve()

    def _join(self) -> None:
        os.environ.update(_QUIET | MESSAGES)
        import ray

        ray.init(address=self._settings.ray.address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        self._start_serve()

    def _start_serve(self) -> None:
        from ray import serve
        from ray.serve.schema import LoggingConfig

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
        serve.start(proxy_location="Disabled", logging_config=quiet)

    def _stop(self) -> None:
        from ray import shutdown as leave

        # Serve is not asked to stop first: a Ctrl-C reaches Ray's processes too, and asking one that is about to go can take
        # more than a minute. Its work is done by now, and its processes go with the cluster's.
        processes = self._processes()
        leave()
        _gone, left = psutil.wait_procs(processes, timeout=5)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _processes(self) -> list[psutil.Process]:
        """Those of the private cluster: children of ours that were given its folder, and all below them."""
        found: list[psutil.Process] = []
        if self._folder is not None:
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    if any(str(self._folder) in word for word in child.cmdline()):
                        found += [child, *child.children(recursive=True)]
        return found


def _hush() -> None:
    """Keeps Ray's own words off the terminal of the process that starts it; they are in its log files. The flag stands for
    an option that Ray lacks: with `log_to_driver=False` it still prints what the raylet reports."""
    from ray._private import worker

    worker._worker_logs_enabled = False


@contextlib.contextmanager
def _set_apart() -> Iterator[None]:
    """Gives each of the processes that Ray starts meanwhile a session of its own. A signal to this one's group, as a terminal,
    `timeout` and others send it, would end them too, while this one still needs them to end as it should. What is wrapped is
    what Ray calls in each child before its program begins; there is no option for it."""
    from ray._private import utils

    end_with_parent = utils.set_kill_on_parent_death_linux

    def end_with_parent_alone() -> None:
        os.setsid()
        end_with_parent()  # type: ignore[no-untyped-call]

    utils.set_kill_on_parent_death_linux = end_with_parent_alone
    try:
        yield
    finally:
        utils.set_kill_on_parent_death_linux = end_with_parent


def _forget_token() -> None:
    """Has Ray read the token again: it keeps the first one that a process used, which may be another home's."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    AuthenticationTokenLoader.instance().reset_cache()


def _own_token(path: Path) -> str:
    """The token of private clusters of this home, made when it is first needed; only its owner can read it."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        token = ""
    if not token:
        token = secrets.token_hex(32)
        write_atomically(path, token.encode(), mode=0o600)
    return token


def _short_folder() -> Path:
    parent = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="tl-", dir=parent if len(parent) <= SHORT_PATH else "/tmp"))  # noqa: S108 - made 0700


def _enough_cpus(settings: Settings) -> int:
    """Ray's CPUs are tickets, not cores: enough for every replica and, while a pool is rolled over, its successor."""
    most = sum(p.num_cpus * (p.autoscale.max_replicas if p.autoscale else p.replicas) for p in settings.pools.values())
    return max(os.cpu_count() or 1, math.ceil(2 * most) + 1)


@contextlib.contextmanager
def _no_stdin() -> Iterator[None]:
    """Processes that start meanwhile have nothing to read: Ray's inherit the terminal otherwise, and can take its input."""
    try:
        kept = os.dup(0)
    except OSError:  # there is none
        yield
        return
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)
