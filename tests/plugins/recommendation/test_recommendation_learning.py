"""How two towers learn: the closed form that they start from, what a batch asks, the loss, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.nn.functional import cross_entropy

from taskloom.core.task import TrainRun
from taskloom.plugins.tasks.recommendation.interactions import read_examples
from taskloom.plugins.tasks.recommendation.learning import Choices, ItemIds, Learning, expected_targets
from taskloom.plugins.tasks.recommendation.plugin import RecommendationTask
from taskloom.plugins.tasks.recommendation.schema import TowerConfig, TrainConfig
from taskloom.plugins.tasks.recommendation.start import linear_vectors
from taskloom.plugins.tasks.recommendation.towers import ItemTower, UserTower

ITEMS, DIMENSIONS = 30, 6


def random_choices(users: int = 60) -> sp.csr_matrix:
    draw = np.random.default_rng(3)
    return sp.csr_matrix((draw.random((users, ITEMS)) < draw.random(ITEMS)).astype(np.float32))


def learning(everybody: list[list[int]], **changes: Any) -> Learning:
    torch.manual_seed(4)
    towers = TowerConfig(dimensions=DIMENSIONS, hidden=4)
    config = TrainConfig.model_validate({"towers": towers, "id_dropout": 0.0, **changes})
    ids = ItemIds(torch.randn(ITEMS, 3), torch.ones(ITEMS, dtype=torch.bool), DIMENSIONS)
    torch.nn.init.normal_(ids.item, std=0.5)
    torch.nn.init.uniform_(ids.weight, 0.1, 0.5)
    return Learning(ItemTower(3, towers), UserTower(towers, 0, 0), ids, config, everybody)


def test_the_first_weights_are_the_linear_autoencoder_where_dimensions_are_many_enough() -> None:
    chosen = random_choices()
    scored, weights = linear_vectors(chosen, ITEMS, 5.0, seed=1)
    gram = (chosen.T @ chosen).toarray()
    precision = np.linalg.inv(gram + 5.0 * np.eye(ITEMS))
    expected = -precision / np.diag(precision)
    found = (scored * weights) @ scored.T
    off = ~np.eye(ITEMS, dtype=bool)
    # One singular vector is missing: the solver gives one fewer than there are.
    assert np.corrcoef(found[off], expected[off])[0, 1] > 0.99
    assert np.abs(found - expected)[off].max() < 0.05


def test_the_same_choices_give_the_same_first_weights() -> None:
    one, other = (linear_vectors(random_choices(), 4, 5.0, seed=1) for _ in range(2))
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])


def test_nothing_that_must_be_found_is_told() -> None:
    everybody = [list(range(n)) for n in (1, 2, 9, 20)]
    drawn = learning(everybody, targets_per_user=7)
    for _ in range(20):
        batch = drawn.collate([Choices(history, 0, ()) for history in everybody])
        for row, history in enumerate(everybody):
            told = batch["history"][batch["history_rows"] == row].tolist()
            targets = batch["targets"][batch["target_rows"] == row].tolist()
            assert not set(told) & set(targets)
            assert set(told) | set(targets) <= set(history)
            assert 1 <= len(targets) <= 7
            assert told == sorted(told)  # the order of the history
            assert batch["from_end"][batch["history_rows"] == row].tolist() == list(range(len(told)))[::-1]


def test_expected_targets_are_what_batches_hold() -> None:
    everybody = [list(range(n)) for n in (1, 2, 9, 20, 30)]
    drawn = learning(everybody, targets_per_user=7)
    expected = expected_targets(everybody, ITEMS, drawn.config)
    counts = torch.zeros(ITEMS)
    rounds = 300
    for _ in range(rounds):
        counts += torch.bincount(drawn.collate([Choices(h, 0, ()) for h in everybody])["targets"], minlength=ITEMS)
    assert torch.allclose(counts / rounds / len(everybody), expected, atol=0.08)


def test_the_sampled_loss_is_the_whole_softmax_on_average() -> None:
    """With the logQ correction the sum over a batch's items stands for the sum over all items."""
    draw = np.random.default_rng(1)
    everybody = [sorted(draw.choice(ITEMS, size=6, replace=False, p=np.arange(1, 31) / 465).tolist()) for _ in range(400)]
    drawn = learning(everybody, targets_per_user=1)
    with torch.no_grad():
        drawn.user.scale.fill_(0.1)  # scores of about 1: the mean of a few samples must do
        drawn.ids.item.mul_(0.5)
        item, weight = drawn.ids.vectors(drawn.item)
        sampled, whole = [], []
        for _ in range(40):
            rows = [everybody[i] for i in draw.choice(len(everybody), 24)]
            batch = drawn.collate([Choices(row, 0, ()) for row in rows])
            sampled.append(float(drawn.loss(batch)))
            logits = drawn._users(item * weight, batch) @ item.T
            for row, chosen in enumerate(rows):
                target = int(batch["targets"][batch["target_rows"] == row])
                logits[row, [other for other in chosen if other != target]] = -1e9
            whole.append(float(cross_entropy(logits, batch["targets"])))
    assert np.mean(sampled) == pytest.approx(np.mean(whole), abs=0.2)


def test_hard_negatives_raise_the_loss_and_are_never_the_users_own() -> None:
    everybody = [list(range(n % 5, n % 5 + 12)) for n in range(16)]
    plain, hard = learning(everybody), learning(everybody, hard_negatives=3)
    torch.manual_seed(9)
    batch = plain.collate([Choices(history, 0, ()) for history in everybody])
    assert float(hard.loss(batch).detach()) > float(plain.loss(batch).detach())
    item, weight = hard.ids.vectors(hard.item)
    own = torch.zeros(16, ITEMS, dtype=torch.bool)
    own[batch["chosen_rows"], batch["chosen"]] = True
    users = hard._users(item * weight, batch)
    found = hard._hard(users, item, own)
    best = (users @ item.T).masked_fill(own, -1e9).topk(3).values
    assert torch.allclose(found, best, atol=1e-4)


def test_an_item_that_is_chosen_twice_counts_once(world: Any, settings: Callable[..., TrainConfig], tmp_path: Any) -> None:
    rows = list(read_examples(world.choices))
    twice = [
        row.model_copy(update={"input": row.input.model_copy(update={"history": (*row.input.history, row.input.history[0])})})
        for row in rows
    ]
    config = settings(epochs=1, validation_fraction=0)
    found = [
        RecommendationTask().train(config, part, [], TrainRun(work_folder=tmp_path / name, show_progress=False)).facts
        for name, part in (("once", rows), ("twice", twice))
    ]
    assert found[0]["interactions"] == found[1]["interactions"]


def test_training_lowers_the_loss_and_can_be_interrupted(
    world: Any, settings: Callable[..., TrainConfig], tmp_path: Any
) -> None:
    task, rows = RecommendationTask(), list(read_examples(world.choices))
    config = settings(
        epochs=6, head_learning_rate=1e-2, sharpness=1.0, validation_fraction=0.2, hard_negatives=2, id_dropout=0.2
    )
    whole = task.train(config, rows, [], TrainRun(work_folder=tmp_path / "whole", show_progress=False))
    losses = [row["loss"] for row in whole.history]
    assert losses[-1] < losses[0]
    assert whole.facts["validation_rows"] == 18
    assert "recall@10" in whole.history[0]

    class StoppedError(Exception):
        pass

    def stop(event: Any) -> None:
        if event["event"] == "checkpoint" and event["step"] > 9:
            raise StoppedError

    with pytest.raises(StoppedError):
        task.train(config, rows, [], TrainRun(work_folder=tmp_path / "cut", show_progress=False, on_event=stop))
    resumed = task.train(config, rows, [], TrainRun(work_folder=tmp_path / "cut", show_progress=False))
    assert resumed.facts["resumed_at_steps"]
    assert torch.equal(resumed.model.vectors.item, whole.model.vectors.item)  # type: ignore[attr-defined]


def test_a_finished_recommender_learns_further_from_what_it_is_not_told(world: Any, trained: Any) -> None:
    """What is to be found is neither told nor said in words. Items' vectors and towers stay as they are: the encoder learns."""
    model = trained.model
    encoder = model.parts.backbone.model
    encoder.requires_grad_(True)
    rows = list(read_examples(world.choices))[:16]
    torch.manual_seed(3)
    batch = model.collate(rows)
    told = set(zip(batch["history_rows"].tolist(), batch["history"].tolist(), strict=True))
    wanted = set(zip(batch["target_rows"].tolist(), batch["targets"].tolist(), strict=True))
    chosen = set(zip(batch["chosen_rows"].tolist(), batch["chosen"].tolist(), strict=True))
    assert wanted
    assert not told & wanted
    assert told | wanted < chosen
    in_words = batch["text_rows"].tolist()
    assert in_words
    assert not {row for row, _ in told} & set(in_words), "who is told in words is told nothing else"
    assert len(told | wanted) + len(in_words) <= len(chosen)
    assert max(in_words.count(row) for row in in_words) <= 3
    loss = model.loss(batch)
    loss.backward()
    assert bool(loss.isfinite())
    assert not [name for name, weight in model.towers.named_parameters() if weight.requires_grad]
    assert any(weight.grad is not None and bool(weight.grad.any()) for weight in encoder.parameters())
    model.module.zero_grad(set_to_none=True)
    encoder.requires_grad_(False)


def test_features_of_users_can_be_learnt_from(
    world: Any, settings: Callable[..., TrainConfig], ready: Callable[[Any], Any], tmp_path: Any
) -> None:
    rows = [
        example.model_copy(
            update={
                "input": example.input.model_copy(update={"features": {"shop": example.input.history[0].partition("-")[0]}})
            }
        )
        for example in read_examples(world.choices)
    ]
    config = settings(
        epochs=20, head_learning_rate=3e-2, target_share=0.9, towers={"dimensions": 8, "hidden": 8, "reading": 8, "recency": 3}
    )
    trained = RecommendationTask().train(config, rows, [], TrainRun(work_folder=tmp_path, show_progress=False))
    ask = ready(trained.model).predict_one
    for shop in ("card", "order", "hello"):
        given = RecommendationTask.Input.model_validate({"features": {"shop": shop}})
        assert ask(given).items[0].item.startswith(shop)
        assert ask(given).unknown == ()


@pytest.mark.parametrize("recency", [0, 4])
def test_users_are_the_same_in_the_precision_that_recovery_trains_in(recency: int) -> None:
    torch.manual_seed(2)
    tower = UserTower(TowerConfig(dimensions=8, hidden=8, recency=recency), users=0, features=0)
    told = (torch.randn(6, 8), torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([2, 1, 0, 1, 0, 0]))
    nothing = torch.zeros(0, dtype=torch.long)
    known = {"users": torch.zeros(3, dtype=torch.long), "features": nothing, "owners": nothing}
    wanted = tower(*told, **known)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = tower(*told, **known)
    assert torch.allclose(found.float(), wanted, atol=0.05)
