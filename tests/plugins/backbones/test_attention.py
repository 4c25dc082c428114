"""Attention written out gives what torch's fused kernel gives, whatever the shapes, masks and pieces that it is done in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from taskloom.plugins.backbones import attention as module
from taskloom.plugins.backbones.attention import attention

BF16_STEP = 2.0**-8
measure = module.products_are_faster.__wrapped__


def inputs(count: int, length: int, more: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(count, 3, length, 8, generator=generator).bfloat16()
    key, value = torch.randn(2, count, 3, length + more, 8, generator=generator).bfloat16()
    return query, key, value


@pytest.fixture(autouse=True)
def alwaysproducts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "products_are_faster", lambda: True)


@given(
    count=st.integers(1, 7),
    length=st.integers(1, 20),
    more=st.integers(0, 3),
    masked=st.sampled_from(["none", "one", "each"]),
    at_once=st.sampled_from([1, 500, 1 << 23]),
    seed=st.integers(0, 1000),
)
def test_products_equal_the_fused_kernel(count: int, length: int, more: int, masked: str, at_once: int, seed: int) -> None:
    query, key, value = inputs(count, length, more, seed)
    mask = None
    if masked != "none":
        hidden = torch.rand(count if masked == "each" else 1, 1, length, length + more) < 0.3
        hidden[..., 0] = False  # each token sees something
        mask = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))
    expected = scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask, scale=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SCORES_AT_ONCE", at_once)
        found = attention(query, key, value, mask=None if mask is None else mask.bfloat16(), dropout_p=0.0, scale=0.3)
    torch.testing.assert_close(found.float(), expected, atol=8 * BF16_STEP, rtol=8 * BF16_STEP)


def test_gradients_equal_those_of_the_fused_kernel() -> None:
    query, key, value = (x.requires_grad_() for x in inputs(4, 10, 0, seed=1))
    attention(query, key, value, mask=None, dropout_p=0.0, scale=None).float().square().sum().backward()
    found = [x.grad.float() for x in (query, key, value) if x.grad is not None]
    wide = [x.detach().float().requires_grad_() for x in (query, key, value)]
    scaled_dot_product_attention(*wide).square().sum().backward()
    for one, other in zip(found, wide, strict=True):
        assert other.grad is not None
        assert torch.nn.functional.cosine_similarity(one.flatten(), other.grad.flatten(), dim=0) > 0.999


def test_dropout_takes_weights_and_keeps_the_mean() -> None:
    query, key, _ = inputs(8, 20, 0, seed=2)
    torch.manual_seed(0)
    found = attention(query, key, torch.ones_like(key), mask=None, dropout_p=0.5, scale=None).float()
    assert found.std() > 0.05
    assert found.mean().item() == pytest.approx(1.0, abs=0.1)


def test_fp32_is_left_to_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "products", None)
    query, key, value = (x.float() for x in inputs(2, 5, 0, seed=3))
    assert attention(query, key, value, mask=None, dropout_p=0.0, scale=None).shape == (2, 3, 5, 8)


def test_training_does_not_depend_on_what_is_faster_at_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = inputs(2, 5, 0, seed=4)
    found = []
    for faster in (True, False):
        monkeypatch.setattr(module, "products_are_faster", lambda faster=faster: faster)
        found.append(attention(query, key, value, mask=None, dropout_p=0.0, scale=None))
    assert torch.equal(*found)
    monkeypatch.setattr(module, "products", None)
    with torch.inference_mode():
        attention(query, key, value, mask=None, dropout_p=0.0, scale=None)


def test_measuring_draws_nothing_that_a_training_would_draw() -> None:
    before = torch.get_rng_state()
    assert measure() in (True, False)
    assert torch.equal(torch.get_rng_state(), before)
