"""Virtual tokens: what they compute, mixed with other adapters in one pass, as a graph, with heads cut out, and on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, UnsupportedError
from taskloom.core.store import ModelStore
from taskloom.core.task import SharedParts
from taskloom.core.testing.conformance import publish
from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.graph import DenseEncoder
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.backbones.packing import plan_row
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.backbones.shape import encoder_layers
from taskloom.plugins.backbones.structure import encoder_structures
from taskloom.plugins.backbones.virtual_tokens import (
    VirtualMethod,
    VirtualTokens,
    read_virtual_tokens,
    save_virtual_tokens,
    take_virtual_tokens,
    virtual_tokens,
)
from taskloom.plugins.tasks.classification.model import ClassificationModel, load
from taskloom.plugins.tasks.classification.plugin import ClassificationTask
from taskloom.plugins.tasks.classification.schema import ClassificationInput

METHODS: tuple[VirtualMethod, ...] = ("prompt", "prefix")
SIZES = [3, 1, 70, 12, 5, 64, 5]


def tokens_for(method: VirtualMethod, seed: int, count: int = 3, width: int = 32) -> VirtualTokens:
    made = torch.Generator().manual_seed(seed)
    if method == "prompt":
        return VirtualTokens("prompt", {"prompt": torch.randn(count, width, generator=made)})
    names = [f"layers.{layer}.{name}" for layer in range(2) for name in ("key", "value")]
    return VirtualTokens("prefix", {name: torch.randn(4, count, 8, generator=made) for name in names})


def encoder_with(folder: str, *tokens: VirtualTokens) -> TextEncoder:
    encoder = TextEncoder(load_backbone(folder))
    for each in tokens:
        take_virtual_tokens(encoder, each)
    return encoder.eval()


def ragged(sizes: Sequence[int], vocabulary: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(7)
    ids = torch.randint(5, vocabulary, (sum(sizes),))
    return ids, torch.zeros_like(ids), torch.tensor(sizes)


@given(
    groups=st.lists(st.lists(st.integers(1, 90), max_size=6), min_size=1, max_size=4).filter(any),
    counts=st.lists(st.integers(0, 9), min_size=4, max_size=4),
)
@settings(max_examples=50)
def test_virtual_tokens_stand_before_each_sequence_and_move_no_token(groups: list[list[int]], counts: list[int]) -> None:
    counts = counts[: len(groups)]
    plain, row = plan_row(*groups), plan_row(*groups, virtual=counts)
    total = sum(map(sum, groups))
    assert row.source[row.restore].tolist() == list(range(total))
    assert torch.equal(row.positions[row.restore], plain.positions[plain.restore])
    at, first, token = 0, total, 0
    for group, count in zip(groups, counts, strict=True):
        for size in group:
            place = int(row.restore[token])
            assert row.source[place - count : place].tolist() == list(range(first, first + count))
            token += size
            at += size + count
        first += count


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra"])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_what_each_text_is_alone_and_what_the_graph_gives(
    method: VirtualMethod, kind: str, checkpoint: Callable[..., Path], tiny_bert: str
) -> None:
    folder = tiny_bert if kind == "bert" else str(checkpoint(kind))
    encoder, bare = encoder_with(folder), encoder_with(folder)
    take_virtual_tokens(encoder, tokens_for(method, 1, width=bare.model.get_input_embeddings().embedding_dim))
    ids, types, lengths = ragged(SIZES)
    parts = torch.split(ids, SIZES)
    with torch.inference_mode():
        packed = encoder(ids, types, lengths)
        alone = torch.cat([encoder(x, torch.zeros_like(x), torch.tensor([len(x)])) for x in parts])
        rows, mask = pad_sequence(list(parts), True), pad_sequence([torch.ones_like(x) for x in parts], True)
        dense = DenseEncoder(encoder)(rows, mask, torch.zeros_like(rows) if encoder.takes_types else None)
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(packed, torch.cat([dense[i, :size] for i, size in enumerate(SIZES)]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(packed, bare(ids, types, lengths), atol=1e-2)


def test_a_prefix_is_softmax_over_learnt_keys_and_the_texts_own(tiny_bert: str) -> None:
    """Against attention written out (Li & Liang 2021, eq. 3), in the first layer."""
    tokens = tokens_for("prefix", 2)
    encoder = encoder_with(tiny_bert, tokens)
    layer = encoder_layers(encoder.model)[0]
    seen: dict[str, Tensor] = {}
    layer.attention.register_forward_hook(lambda _, given, found: seen.update(given=given[0], found=found[0]))
    ids, types, lengths = ragged([6])
    with torch.inference_mode():
        encoder(ids, types, lengths)
        query, key, value = (linear(seen["given"][0, :6]).view(6, 4, 8).transpose(0, 1) for linear in layer.inputs)
        keys, values = (torch.cat(pair, 1) for pair in zip(tokens.pair(0), (key, value), strict=True))
        expected = torch.softmax(query @ keys.transpose(1, 2) / 8**0.5, -1) @ values
    torch.testing.assert_close(seen["found"][0, :6], expected.transpose(0, 1).flatten(1), atol=1e-5, rtol=1e-5)


def test_a_prefix_loses_the_heads_that_its_layer_loses_and_comes_back(tiny_bert: str, tmp_path: Path) -> None:
    encoder = encoder_with(tiny_bert, tokens_for("prefix", 3))
    ids, types, lengths = ragged(SIZES)
    layers, heads, *_ = encoder_structures(encoder.model, lambda: None)
    with torch.inference_mode():
        with heads.gated(torch.tensor([0.0, 1.0, 0.0, 1.0])):
            expected = encoder(ids, types, lengths)
        heads.keep([1, 3])
        torch.testing.assert_close(encoder(ids, types, lengths), expected, atol=1e-5, rtol=1e-5)
    layers.keep([0])
    there = virtual_tokens(encoder)
    assert there is not None
    save_virtual_tokens(there, "tiny", tmp_path)
    read = read_virtual_tokens(tmp_path)
    assert read is not None
    assert {name: tuple(x.shape) for name, x in read.weights.items()} == {
        "layers.0.key": (2, 3, 8),
        "layers.0.value": (2, 3, 8),
    }


def adapted(backbone: str, seed: int, kind: str) -> ClassificationModel:
    torch.manual_seed(seed)
    labels = [str(i) for i in range(seed + 2)]
    if kind == "lora":
        model = ClassificationModel.build(labels, backbone=backbone, adapter=LoraSettings(r=2))
    else:
        model = ClassificationModel.build(labels, backbone=backbone, frozen_layers=2)
        model.keep_virtual_tokens(tokens_for("prompt" if kind == "prompt" else "prefix", seed, count=seed + 2))
    for name, parameter in model.module.named_parameters():
        if "lora_B" in name or name.startswith("head."):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def artifacts(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    kinds = ["prefix", "lora", "prompt", "prefix", "prompt"]
    return [
        publish(ClassificationTask(), adapted(tiny_bert, seed, kind), ModelStore([tmp_path_factory.mktemp("store")]))
        for seed, kind in enumerate(kinds)
    ]


def test_prompts_prefixes_and_lora_are_mixed_in_one_pass(artifacts: list[Artifact]) -> None:
    digest = artifacts[0].manifest.backbone.digest if artifacts[0].manifest.backbone else ""
    shared = SharedParts([digest])
    alone, together = [load(each, SharedParts()) for each in artifacts], [load(each, shared) for each in artifacts]
    for model in (*alone, *together):
        model.module.eval()
    texts = [[2, 9], [1, 30, 4, 4], [1, 1], [14], [3, 20]]
    batches = [
        model.encode([ClassificationInput(text="where is my card " * n) for n in group])
        for model, group in zip(together, texts, strict=True)
    ]
    trunk = together[0].branch
    assert trunk is not None
    with torch.inference_mode():
        parts = [(model.branch.name, batch) for model, batch in zip(together, batches, strict=True) if model.branch]
        hidden = trunk.trunk.run(parts)
        for model, own, batch, states in zip(together, alone, batches, hidden, strict=True):
            expected = own.forward(batch)["logits"]
            torch.testing.assert_close(model.finish(states, batch)["logits"], expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(model.forward(batch)["logits"], expected, atol=1e-4, rtol=1e-4)
    assert len({id(model.parts.backbone.model) for model in together}) == 1


def test_what_does_not_fit_is_refused(artifacts: list[Artifact], checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    prefix = tokens_for("prefix", 1)
    with pytest.raises(UnsupportedError, match="padded"):
        encoder_with(str(checkpoint("mpnet")), prefix)
    other = str(checkpoint("bert", num_hidden_layers=3))
    with pytest.raises(ArtifactError, match="prefixes of 2 layers"):
        encoder_with(other, prefix)
    folder = artifacts[0].folder / "adapter"
    names = {path.name for path in folder.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    for name in names:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "tokens": 9}))
    with pytest.raises(ArtifactError, match="other weights"):
        read_virtual_tokens(tmp_path)
