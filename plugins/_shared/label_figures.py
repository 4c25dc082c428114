"""The pictures in the report of anything that chooses among labels. Matplotlib by its object interface: no global state, no
display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont

FONTS = ["Noto Sans CJK SC", "Noto Sans SC", "WenQuanYi Micro Hei", "Source Han Sans SC", "SimHei", "PingFang SC"]
"""For labels in Chinese; the first that the machine has."""
CJK_FROM = 0x2E80
"""The first code point that matplotlib's own font lacks and `FONTS` are for."""
NUMBERED_FROM = 30
"""From so many classes on, cells are too small for numbers: the largest confusions are listed beside the matrix."""

Table = Sequence[Sequence[str | float | int]]


def draw_confusion(matrix: Any, labels: Sequence[str], confusions: Table, path: Path) -> None:
    """True labels down, given labels across, coloured by the share of the true label's rows."""
    size = len(labels)
    small = size < NUMBERED_FROM
    side = max(5.0, min(18.0, 0.22 * size + 3))
    figure = Figure(figsize=(side if small else side + 6.5, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(1, 1, 1)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    font = label_font(labels)
    names = dict(zip(labels, labels, strict=True)) if font else {label: f"no. {i}" for i, label in enumerate(labels, start=1)}
    shown = [name if len(name) <= 34 else name[:33] + "…" for name in names.values()]
    letters = 9 if small else 6.5
    axes.set_xticks(range(size), shown, rotation=90, fontsize=letters, fontproperties=font)
    axes.set_yticks(range(size), shown, fontsize=letters, fontproperties=font)
    for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        tick.set_fontsize(letters)
    axes.set_xlabel("given")
    axes.set_ylabel("true")
    right = int(np.trace(matrix))
    axes.set_title(f"Confusion matrix: {right} of {int(matrix.sum())} right")
    for i, j in np.argwhere(matrix > 0):
        if small or i != j:
            colour = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=8 if small else 5, color=colour)
    if small:
        figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true label's rows")
    else:
        lines = [
            f"{count:>3} ({float(part):.0%})  {names[str(true)]} → {names[str(given)]}"
            for true, given, count, part in confusions
        ]
        told = "Largest confusions: rows (share), true → given\n\n" + "\n".join(lines or ["none"])
        axes.text(1.02, 1.0, told, transform=axes.transAxes, va="top", fontsize=8.5, fontproperties=font)
    figure.savefig(path, dpi=110)


def draw_reliability(bins: Table, error: float, path: Path) -> None:
    """How often answers of each confidence are right; on the diagonal, a score means what it says."""
    figure = Figure(figsize=(5.4, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middles = [(float(row[0]) + float(row[1])) / 2 for row in bins]
    width = 0.9 * (float(bins[0][1]) - float(bins[0][0]))
    upper.plot([0, 1], [0, 1], linestyle="--", color="grey", label="calibrated")
    upper.bar(middles, [float(row[4]) for row in bins], width=width, alpha=0.75, label="accuracy")
    upper.plot([float(row[3]) for row in bins], [float(row[4]) for row in bins], "o", color="black", markersize=3)
    upper.set_ylabel("accuracy")
    upper.set_title(f"Reliability: expected calibration error {error:.3f}")
    upper.legend(loc="upper left")
    lower.bar(middles, [int(row[2]) for row in bins], width=width, color="grey")
    lower.set_xlabel("confidence")
    lower.set_ylabel("decisions")
    lower.set_xlim(0, 1)
    figure.savefig(path, dpi=110)


def label_font(labels: Sequence[str]) -> FontProperties | None:
    """A font that has the labels' letters: the default for Latin text, else the first of `FONTS` that is installed. None if
    there is none: labels are then shown by their number in the per-class table rather than as empty boxes."""
    if all(ord(letter) < CJK_FROM for label in labels for letter in label):
        return FontProperties()
    for name in FONTS:
        try:
            return FontProperties(fname=findfont(FontProperties(family=name), fallback_to_default=False))
        except ValueError:
            continue
    return None
