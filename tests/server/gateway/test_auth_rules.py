"""Policy and rate limits, without a server."""

from __future__ import annotations

import pytest

from taskloom.core.errors import PermissionDeniedError, RateLimitedError
from taskloom.core.types import Principal
from taskloom.server.auth.limits import RateLimits
from taskloom.server.auth.policy import ModelAccess, check_role


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def key(name: str = "key", **fields: object) -> Principal:
    return Principal(name=name, key_id=f"id-{name}", **fields)  # type: ignore[arg-type]


def test_a_bucket_holds_one_second_and_refills() -> None:
    clock = Clock()
    limits, slow = RateLimits(clock), key(requests_per_s=4)
    for _ in range(4):
        limits.take(slow)
    with pytest.raises(RateLimitedError) as caught:
        limits.take(slow)
    assert caught.value.retry_after_s == pytest.approx(0.25)
    clock.now += 0.25
    limits.take(slow)
    clock.now += 100
    for _ in range(4):
        limits.take(slow)
    with pytest.raises(RateLimitedError):
        limits.take(slow)


def test_less_than_one_a_second_still_allows_one() -> None:
    clock = Clock()
    limits, rare = RateLimits(clock), key(requests_per_s=0.1)
    limits.take(rare)
    with pytest.raises(RateLimitedError) as caught:
        limits.take(rare)
    assert caught.value.retry_after_s == pytest.approx(10)


def test_keys_don_t_share_buckets_and_without_a_rate_there_is_none() -> None:
    limits = RateLimits(Clock(), max_buckets=2)
    for name in ("a", "b", "c"):
        limits.take(key(name, requests_per_s=1))
    with pytest.raises(RateLimitedError):
        limits.take(key("c", requests_per_s=1))
    for _ in range(1000):
        limits.take(key("free"))


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        (("*",), "anything", True),
        (("intent-*",), "intent-en", True),
        (("intent-*",), "my-intent-en", False),
        (("a", "b"), "b", True),
        ((), "a", False),
    ],
)
def test_patterns_are_whole_names(patterns: tuple[str, ...], model: str, allowed: bool) -> None:
    access = ModelAccess()
    assert [access.allows(key(models=patterns), model) for _ in range(2)] == [allowed, allowed]


def test_remembered_decisions_are_bounded_and_follow_the_key() -> None:
    access = ModelAccess(max_decisions=10)
    for n in range(100):
        assert not access.allows(key(models=("intent-*",)), f"other-{n}")
    assert len(access._decisions) <= 10
    assert access.allows(key(models=("*",)), "other-99")
    with pytest.raises(PermissionDeniedError, match=r"intent-\*"):
        access.check(key(models=("intent-*",)), "other")


def test_a_role_is_needed() -> None:
    check_role(key(roles=frozenset({"predict"})), frozenset({"predict", "admin"}), "do it")
    with pytest.raises(PermissionDeniedError, match="its roles are none"):
        check_role(key(), frozenset({"predict"}), "do it")
