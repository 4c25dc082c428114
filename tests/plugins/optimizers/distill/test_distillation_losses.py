"""The losses against computations by hand."""

from __future__ import annotations

import math

import pytest
import torch

from taskloom.core.anatomy import SoftTarget
from taskloom.plugins.optimizers.distill.losses import hidden_loss, relation_loss, shared_heads, soft_loss


def shares(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(x / temperature) for x in logits]
    return [x / sum(powers) for x in powers]


def divergence(teacher: list[float], student: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_softened_answers_are_compared_and_scaled_by_the_temperature_squared(temperature: float) -> None:
    teacher, student = [2.0, 0.5, -1.0], [0.1, 0.2, 0.9]
    expected = temperature**2 * divergence(shares(teacher, temperature), shares(student, temperature))
    found = soft_loss(SoftTarget(torch.tensor([student])), torch.tensor([teacher]), temperature)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    other = [0.3, 0.3, 0.1]
    both = soft_loss(SoftTarget(torch.tensor([student, other])), torch.tensor([teacher, other]), temperature)
    assert float(both) == pytest.approx(expected / 2, rel=1e-5), "the mean over rows"


def test_a_choice_among_an_inputs_rows_is_no_choice_among_columns() -> None:
    """A reader's start and end are each a choice among the tokens of one window."""
    teacher = torch.tensor([[1.0, 0.0], [2.0, -1.0], [0.5, 3.0], [0.0, 0.0], [1.0, -1e9]])
    student = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.5], [1.0, 0.3], [0.2, -1e9]])
    sizes = torch.tensor([3, 2])
    expected = 0.0
    for rows in (slice(0, 3), slice(3, 5)):
        for column in (0, 1):
            wanted, own = (shares(x[rows, column].tolist(), 2.0) for x in (teacher, student))
            expected += 4 * sum(p * math.log(p / q) for p, q in zip(wanted, own, strict=True) if p > 0)
    found = soft_loss(SoftTarget(student, "choices", sizes), teacher.clamp(min=-6e4), 2.0)
    assert float(found) == pytest.approx(expected / 2, rel=1e-5)


def test_flags_are_yes_or_no_each() -> None:
    teacher, student = torch.tensor([[2.0, -1e4]]), torch.tensor([[-1.0, -1e4]])
    p, q = (1 / (1 + math.exp(-float(x[0, 0]) / 2)) for x in (teacher, student))
    expected = 4 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    assert float(soft_loss(SoftTarget(student, "flags"), teacher, 2.0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["classes", "choices", "flags", "vectors"])
def test_who_agrees_has_nothing_to_learn_and_gradients_are_numbers(kind: str) -> None:
    torch.manual_seed(0)
    values = torch.randn(5, 3)
    values[1, 1] = -1e9 if kind != "vectors" else 1.0
    own = values.clone().requires_grad_(True)
    loss = soft_loss(SoftTarget(own, kind, torch.tensor([2, 3])), values.clamp(min=-6e4), 2.0)  # type: ignore[arg-type]
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-5)
    (loss + soft_loss(SoftTarget(own, kind, torch.tensor([2, 3])), torch.randn(5, 3), 2.0)).backward()  # type: ignore[arg-type]
    assert own.grad is not None
    assert bool(own.grad.isfinite().all())


def test_states_are_compared_by_direction_or_by_distance() -> None:
    one, other = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [2.0, 0.0]])
    assert float(hidden_loss(one, other, "cosine")) == pytest.approx(0.5)
    assert float(hidden_loss(one, other, "mse")) == pytest.approx((4 + 4 + 4) / 4)


def test_relations_are_of_each_sequence_alone_and_of_any_width() -> None:
    torch.manual_seed(1)
    lengths = torch.tensor([3, 5])
    teacher, student = torch.randn(8, 12), torch.randn(8, 6)
    assert shared_heads(6, 12, 4) == 3
    expected = 0.0
    for rows in (slice(0, 3), slice(3, 8)):
        for head in range(3):
            wanted, own = (x[rows].view(-1, 3, x.shape[1] // 3)[:, head] for x in (teacher, student))
            tables = [(x @ x.T / x.shape[1] ** 0.5).log_softmax(-1) for x in (wanted, own)]
            expected += float((tables[0].exp() * (tables[0] - tables[1])).sum())
    assert float(relation_loss(student, teacher, lengths, 4)) == pytest.approx(expected / (3 * 8), rel=1e-4)
    assert float(relation_loss(teacher, teacher, lengths, 4)) == pytest.approx(0.0, abs=1e-6)
