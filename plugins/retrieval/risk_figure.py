"""The picture of a risk-coverage curve. Matplotlib by its object interface: no global state, no display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from taskloom.core.knowledge_figures import RiskPoint

THRESHOLDS_TOLD = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Thresholds whose place on the curve is marked."""


def draw_risk(points: Sequence[RiskPoint], path: Path) -> None:
    """The share of wrong answers over the share of questions that are answered, with the thresholds that lead there."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(1, 1, 1)
    axes.step([point.coverage for point in points], [point.risk for point in points], where="post")
    named = "answers from this confidence on"
    for threshold in THRESHOLDS_TOLD:
        reached = [point for point in points if point.threshold >= threshold]
        if reached:
            last = reached[-1]
            place = (last.coverage, last.risk)
            axes.plot(*place, "o", color="black", markersize=4, label=named)
            axes.annotate(f"{threshold:g}", place, xytext=(3, -12), textcoords="offset points", fontsize=9)
            named = ""  # once is enough
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("coverage: share of the questions that are answered")
    axes.set_ylabel("risk: share of these answers that are wrong")
    axes.set_title("Risk and coverage")
    axes.grid(alpha=0.3)
    if not named:
        axes.legend(loc="upper left")
    figure.savefig(path, dpi=110, format="png")
