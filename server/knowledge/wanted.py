"""Which models the knowledge bases of a home need, for who loads no others. Imports no ML library."""

from __future__ import annotations

from taskloom.core.errors import TaskloomError
from taskloom.core.registry import Registry
from taskloom.core.settings import Settings
from taskloom.server.knowledge.folders import BaseFolders, Place


def models_wanted(settings: Settings, registry: Registry, tenant: str) -> list[str]:
    """Those that embed and read, those that extract where a base that the tenant sees keeps a graph, and those that its bases
    name to re-rank and to write."""
    places = BaseFolders(settings.knowledge_folder).visible(tenant)
    uses = ["embedding", "reader"]
    if any(_keeps_graph(place, registry) for place in places):
        uses += ["entities", "relations"]
    named = (getattr(models, use) for models in settings.knowledge.languages.values() for use in uses)
    answering = (name for place in places for name in place.spec.answering.models)
    return sorted({name for name in (*named, *answering) if name})


def _keeps_graph(place: Place, registry: Registry) -> bool:
    """What can't be told of a base is said when it is opened."""
    try:
        plugin = registry.retrievers.get(place.spec.retriever)
        return plugin.keeps_graph(plugin.Config.model_validate(dict(place.spec.config)))
    except (TaskloomError, ValueError):
        return False
