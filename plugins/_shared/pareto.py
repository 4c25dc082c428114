"""The picture of all versions of a model: quality against latency, size as the area."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from taskloom.core.comparison import ParetoPoint

LARGEST = 900.0
"""The area of the largest version's dot, in square points."""
NEWEST, OTHERS = "#d55e00", "#0072b2"
"""Two colours that almost everybody tells apart (Okabe & Ito 2008, https://jfly.uni-koeln.de/color/); the newest version is a
square as well."""


def draw_pareto(points: Sequence[ParetoPoint], metric: str, path: Path) -> None:
    """Writes a PNG. Versions on the front (none other is at least as good in quality, latency and size, and better in one)
    are filled."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    largest = max(point.size_bytes for point in points) or 1
    best = set(front(points))
    for i, point in enumerate(points):
        colour = NEWEST if point.newest else OTHERS
        axes.scatter(
            1000 * point.latency_s,
            point.quality,
            s=max(20.0, LARGEST * point.size_bytes / largest),
            facecolors=colour if i in best else "none",
            edgecolors=colour,
            marker="s" if point.newest else "o",
            alpha=0.6,
        )
        axes.annotate(
            f"{point.name}\n{point.size_bytes / 1e6:.1f} MB",
            (1000 * point.latency_s, point.quality),
            textcoords="offset points",
            xytext=(9, 5),
            fontsize=8,
        )
    axes.margins(0.25)
    axes.set_xlabel("p50 of one request, ms")
    axes.set_ylabel(metric)
    axes.set_title("Versions on the same rows; area is size, filled is on the front", fontsize=10)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def front(points: Sequence[ParetoPoint]) -> list[int]:
    """The numbers of the points that no other one dominates, for a metric where more is better."""

    def dominates(one: ParetoPoint, other: ParetoPoint) -> bool:
        better = (one.quality >= other.quality, one.latency_s <= other.latency_s, one.size_bytes <= other.size_bytes)
        strictly = (one.quality > other.quality, one.latency_s < other.latency_s, one.size_bytes < other.size_bytes)
        return all(better) and any(strictly)

    return [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]
