"""What a long command says of its progress where no bar is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click


def say_training(event: Mapping[str, Any]) -> None:
    """A line for each epoch of a training, and for what a long one says on the way, on standard error."""
    if event["event"] == "resumed":
        click.echo(f"going on from step {event['step']} of {event['steps']}", err=True)
    elif event["event"] == "progress":
        told = "step {step}/{steps}, loss {loss:.4f}, {tokens_per_s:,.0f} tokens/s"
        click.echo(told.format(**event), err=True)
    elif event["event"] == "epoch":
        known = {"event", "step", "steps", "epoch", "loss", "learning_rate"}
        scores = "".join(f", {key} {value:.4f}" for key, value in event.items() if key not in known)
        where = f"epoch {event['epoch']:.0f}: step {event['step']:.0f}/{event['steps']}"
        click.echo(f"{where}, loss {event['loss']:.4f}{scores}", err=True)


def say_optimizing(event: Mapping[str, Any], *, show_progress: bool = False) -> None:
    """A line for each step of a chain, and for each epoch of a training in it unless a bar shows that."""
    told = {
        "optimizer": "{name} ...",
        "kept": "{name}: kept from before",
        "compare": "comparing it with its parent ...",
    }.get(str(event["event"]))
    if told:
        click.echo(told.format(**event), err=True)
    elif not show_progress:
        say_training(event)
