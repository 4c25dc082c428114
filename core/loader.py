"""Finds plugins among the installed packages and loads each on its own, so that a broken one stops nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

import pluggy

from taskloom.core import hookspecs
from taskloom.core.errors import PluginError
from taskloom.core.hookspecs import GROUP
from taskloom.core.registry import PluginReport, Registry

log = logging.getLogger(__name__)

DISTRIBUTION = "taskloom"


def load_registry(points: Iterable[EntryPoint] | None = None) -> Registry:
    """The registry of everything installed: the entry points of group `taskloom`, those of this distribution first.

    A plugin of this distribution that does not load raises `PluginError`. Any other is reported in `Registry.reports`,
    logged and skipped. A hook name that no specification knows is an error of its plugin.
    """
    found = list(entry_points(group=GROUP) if points is None else points)
    registry = Registry(hooks=pluggy.PluginManager(GROUP))
    assert registry.hooks is not None
    registry.hooks.add_hookspecs(hookspecs)
    for point in sorted(found, key=lambda p: (not _is_builtin(p), _distribution(p), p.name)):
        registry.reports.append(_load(point, registry, registry.hooks))
    return registry


def _load(point: EntryPoint, registry: Registry, manager: pluggy.PluginManager) -> PluginReport:
    owner = f"{_distribution(point)}:{point.name}"
    builtin = _is_builtin(point)
    version = point.dist.version if point.dist is not None else ""
    report = PluginReport(owner=owner, distribution=_distribution(point), version=version, builtin=builtin)
    plugin: object | None = None
    try:
        plugin = point.load()
        if manager.register(plugin, name=owner) is None:
            raise PluginError(f"{owner} is registered twice")
        _check_hooks(plugin, owner, manager)
        return report.model_copy(update={"provides": registry.take(plugin, owner, manager)})
    except (Exception, SystemExit) as exc:
        if plugin is not None and manager.is_registered(plugin):
            manager.unregister(plugin)
        told = f"{type(exc).__name__}: {exc}"
        if builtin:
            raise PluginError(f"the built-in plugin {owner} does not load ({told})") from exc
        log.warning("plugin %s is skipped: %s", owner, told)
        return report.model_copy(update={"error": told})


def _check_hooks(plugin: object, owner: str, manager: pluggy.PluginManager) -> None:
    if not manager.get_hookcallers(plugin):
        raise PluginError(f"{owner} implements no hook; mark the functions that register what it brings with @hookimpl")
    known = {name for name in dir(hookspecs) if hasattr(getattr(hookspecs, name), f"{GROUP}_spec")}
    for caller in manager.get_hookcallers(plugin) or ():
        if caller.name not in known:
            raise PluginError(
                f"{owner} implements {caller.name!r}, which is no hook; the hooks are: {', '.join(sorted(known))}"
            )


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"


def _is_builtin(point: EntryPoint) -> bool:
    return _distribution(point) == DISTRIBUTION
