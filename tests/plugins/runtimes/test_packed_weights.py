"""Linear layers with weights that are packed for oneDNN."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from taskloom.core.artifact import Artifact
from taskloom.core.loader import load_registry
from taskloom.core.predictor import Predictor, load_predictor, validated
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.settings import Settings
from taskloom.core.store import open_store
from taskloom.core.task import SharedParts
from taskloom.plugins._shared import packed
from taskloom.plugins._shared.packed import PackedLinear, linear_seconds, pack
from taskloom.plugins._shared.timing import best_seconds
from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.backbones.shape import encoder_layers
from taskloom.plugins.runtimes.torch import TorchRuntime, choose_packing

needs_onednn = pytest.mark.skipif(
    math.isinf(linear_seconds(torch.float32, packed=True)), reason="this torch has no packed kernels of oneDNN"
)
TEXTS = ("I lost my card", "Where is my money?", "Why was Anna Smith charged twice in Berlin by Acme Ltd last week?")


class Tied(nn.Module):
    """Words in and out by one table, and two layers between them."""

    calls_linear_layers = True

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.inner = nn.Sequential(nn.Linear(16, 40, bias=bias), nn.GELU(), nn.Linear(40, 16, bias=bias))
        self.out = nn.Linear(16, 50, bias=False)
        self.out.weight = self.table.weight
        self.special = nn.modules.linear.NonDynamicallyQuantizableLinear(16, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.inner(self.table(ids)))
        return found


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (0,), (2, 0), ()])
def test_packed_layers_compute_what_they_did(dtype: torch.dtype, bias: bool, shape: tuple[int, ...]) -> None:
    if dtype == torch.bfloat16 and math.isinf(linear_seconds(dtype, packed=True)):
        pytest.skip("oneDNN has no bf16 on this processor")
    torch.manual_seed(0)
    module = Tied(bias).to(dtype).eval()
    ids = torch.randint(0, 50, shape)
    with torch.inference_mode():
        before = module(ids)
        pack(module)
        after = module(ids)
    assert after.dtype == dtype
    torch.testing.assert_close(after, before)


@needs_onednn
def test_what_is_tied_or_of_another_kind_stays_and_weights_can_be_read_and_saved() -> None:
    module = Tied()
    before = {name: values.clone() for name, values in module.state_dict().items()}
    pack(module)
    pack(module)  # finds nothing more to do
    assert [type(layer) for layer in module.inner] == [PackedLinear, nn.GELU, PackedLinear]
    assert type(module.out) is nn.Linear
    assert type(module.special) is not PackedLinear
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], values) for name, values in before.items())
    layer: Any = module.inner[0]
    assert torch.equal(layer.weight, before["inner.0.weight"])
    module.to(device="cpu", dtype=torch.float32)  # as a second model on the same trunk asks
    held = sum(t.numel() for t in (*module.parameters(), *module.buffers()))
    assert held == sum(values.numel() for name, values in before.items() if name != "out.weight"), "counted once each"


@needs_onednn
def test_copies_share_what_is_packed_and_parts_that_may_read_weights_keep_them() -> None:
    module, made, ids = nn.ModuleList([Tied(), nn.Linear(4, 4)]), dict[int, torch.Tensor](), torch.arange(3)
    pack(module, made)
    assert type(module[1]) is nn.Linear
    assert len(made) == 2
    copied = copy.deepcopy(module)
    assert copied[0].inner[0].packed is module[0].inner[0].packed
    assert torch.equal(copied[0](ids), module[0](ids))


@needs_onednn
def test_the_layers_of_a_packed_encoder_are_still_found(tiny_bert: str) -> None:
    """A model with a learnt prefix that comes to a trunk which others run on asks for them."""
    encoder = TextEncoder(load_backbone(tiny_bert, max_length=32))
    before = len(encoder_layers(encoder.model, through_adapters=True))
    pack(encoder)
    assert isinstance(encoder_layers(encoder.model, through_adapters=True)[0].first, PackedLinear)
    assert len(encoder_layers(encoder.model, through_adapters=True)) == before > 0


def test_weights_are_packed_where_that_is_faster_and_the_plan_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "packing_gain", lambda dtype: 2.0 if dtype == torch.float32 else 0.9)
    assert choose_packing("fp32", "cpu") == (True, "weights packed: a layer ran 2.0 times as fast with packed ones")
    assert choose_packing("bf16", "cpu")[0] is False
    assert choose_packing("fp16", "cpu")[0] is False
    assert choose_packing("bf16", "cuda:0")[0] is False
    plan = TorchRuntime().plan(RuntimeConfig(device="cpu", precision="fp32"))
    assert plan.packed
    assert plan.compiles_shapes, "oneDNN builds a kernel for each shape"
    assert any("packed" in reason for reason in plan.reasons)


def test_a_torch_without_the_kernels_keeps_weights_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    linear_seconds.cache_clear()
    monkeypatch.setattr("taskloom.plugins._shared.packed.packed_weight", _missing)
    try:
        assert math.isinf(linear_seconds(torch.float32, packed=True))
        assert choose_packing("fp32", "cpu")[0] is False
    finally:
        linear_seconds.cache_clear()


def _missing(weight: torch.Tensor) -> torch.Tensor:
    raise AttributeError("no such operator")


def _bundled(name: str) -> Artifact:
    return open_store(Settings().models_folder).resolve(name)


@needs_onednn
def test_a_model_in_training_keeps_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "packing_gain", lambda _: 2.0)
    runtime, registry, artifact = TorchRuntime(), load_registry(), _bundled("intent-en")
    model = registry.tasks.get("classification").load(artifact, SharedParts())
    plan = runtime.plan(RuntimeConfig(device="cpu", precision="fp32", threads=1))
    assert not runtime.load(model, None, plan).plan.packed
    assert not any(isinstance(part, PackedLinear) for part in model.module.modules())
    assert runtime.load(model, artifact, plan).plan.packed
    assert any(isinstance(part, PackedLinear) for part in model.module.modules())


@needs_onednn
def test_models_that_share_a_backbone_answer_as_they_do_without_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one puts its adapter on layers that are packed already."""
    registry, config = load_registry(), RuntimeConfig(device="cpu", precision="fp32", threads=1)
    labels, entities = {}, {}
    for gain in (0.5, 2.0):
        monkeypatch.setattr(packed, "packing_gain", lambda _, gain=gain: gain)
        shared = SharedParts()
        intent, ner = (load_predictor(registry, _bundled(name), config, shared) for name in ("intent-en", "ner-en"))
        assert [predictor.executor.plan.packed for predictor in (intent, ner)] == [gain > 1] * 2
        labels[gain] = [answer.labels[0] for answer in _answers(intent)]
        entities[gain] = [entity for answer in _answers(ner) for entity in answer.entities]
    assert entities[2.0]
    for before, after in zip(labels[0.5] + entities[0.5], labels[2.0] + entities[2.0], strict=True):
        assert after.label == before.label
        assert after.score == pytest.approx(before.score, abs=1e-5)


def _answers(predictor: Predictor[Any, Any, Any]) -> list[Any]:
    return predictor.predict([validated(predictor.task.Input, {"text": text}, "input") for text in TEXTS])


def test_ways_are_timed_on_one_thread_and_threads_are_as_they_were_afterwards() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    assert best_seconds(lambda: seen.append(torch.get_num_threads())) >= 0
    assert set(seen) == {1}
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="no such way"):
        best_seconds(_no_such_way)
    assert torch.get_num_threads() == before


def _no_such_way() -> None:
    raise ValueError("no such way")
