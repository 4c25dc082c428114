"""A recipe that trains nothing becomes a model; one that was to train, and names no rows, does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from command_context import Context

from taskloom.core.errors import ConfigError
from taskloom.core.predictor import load_predictor
from taskloom.plugins.commands.train import train
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput

RECIPE = """
task = "embedding"
name = "tiny"

[data]
evaluation = "unseen.jsonl"

[config]
backbone = "{backbone}"
pretrained = {pretrained}
"""


def trained(context: Context, folder: Path, **facts: str) -> Result:
    (folder / "tiny.toml").write_text(RECIPE.format(**facts))
    return CliRunner().invoke(train, [str(folder / "tiny.toml"), "--json"], obj=context, catch_exceptions=False)


def test_an_encoder_becomes_a_model_as_it_is(tiny_bert: str, tmp_path: Path) -> None:
    rows = [{"query": f"{word} ?", "positive": f"the {word}"} for word in ("card", "order", "refund")]
    (tmp_path / "unseen.jsonl").write_text("\n".join(map(json.dumps, rows)))
    context = Context(tmp_path / "home")
    printed = json.loads(trained(context, tmp_path, backbone=tiny_bert, pretrained="true").stdout)
    assert printed["metrics"].keys() == {"ndcg@10", "mrr@10", "recall@1", "recall@5", "recall@20"}
    artifact = context.store.resolve("tiny@candidate")
    assert set(artifact.manifest.files) == {"report.json", "MODEL_CARD.md"}
    assert artifact.manifest.data == ()
    predictor = load_predictor(context.registry, artifact)
    assert len(predictor.predict_one(EmbeddingInput(text="card")).vector) == 32
    with pytest.raises(ConfigError, match=r"names no rows to train on; set data\.train"):
        trained(context, tmp_path, backbone=tiny_bert, pretrained="false")
