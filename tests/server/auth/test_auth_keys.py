"""API keys: what is stored, who is let in, and for how long a change goes unnoticed."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from taskloom.core.errors import ConfigError, InvalidInputError, NotFoundError, UnauthenticatedError, UnavailableError
from taskloom.core.types import Principal
from taskloom.server.auth.keys import Authenticator, KeyInfo, KeyStore


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyStore]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    store = KeyStore(url, home=tmp_path)
    yield store
    store.close()


def test_a_key_lets_in_whom_it_was_made_for(store: KeyStore) -> None:
    secret, info = store.create(
        "ada", tenant="acme", roles=["predict", "audit"], models=["intent-*"], requests_per_s=5, expires_s=60
    )
    assert re.fullmatch(rf"tl_{info.key_id}_[0-9A-Za-z]{{43}}", secret)
    assert store.authenticate(secret) == Principal(
        name="ada",
        tenant="acme",
        key_id=info.key_id,
        roles=frozenset({"predict", "audit"}),
        models=("intent-*",),
        requests_per_s=5,
    )
    assert store.list() == (info,)


def test_the_secret_is_nowhere_on_disk(tmp_path: Path) -> None:
    store = KeyStore(home=tmp_path)
    secret, _ = store.create("ada")
    store.close()
    for path in (tmp_path / "state").iterdir():
        assert secret.encode() not in path.read_bytes()
        assert secret.split("_")[2].encode() not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


def test_callers_cannot_tell_why_a_key_is_refused(store: KeyStore, caplog: pytest.LogCaptureFixture) -> None:
    revoked, info = store.create("ada")
    store.revoke(info.key_id)
    expired, _ = store.create("bob", expires_s=0.001)
    good, _ = store.create("eve")
    time.sleep(0.01)
    wrong = good[:-1] + ("a" if good[-1] != "a" else "b")
    messages = set()
    for secret in (revoked, expired, wrong, "tl_aaaaaaaaaa_" + "b" * 43, "", "nonsense", good + "\n", "\ud800"):
        with pytest.raises(UnauthenticatedError) as caught:
            store.authenticate(secret)
        messages.add(str(caught.value))
        assert secret not in caplog.text or len(secret) < 5
    assert len(messages) == 1
    for why in ("was revoked", "is expired", "is unknown", "form of a key"):
        assert why in caplog.text


def test_revoking_twice_keeps_the_first_time_and_unknown_ids_are_told(store: KeyStore) -> None:
    _, info = store.create("ada")
    first = store.revoke(info.key_id)
    assert first.revoked_s is not None
    assert store.revoke(info.key_id) == first
    with pytest.raises(NotFoundError, match="key list"):
        store.revoke("nobody")


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"name": "No Spaces"}, "name"),
        ({"roles": ["root"]}, "roles"),
        ({"roles": []}, "roles"),
        ({"requests_per_s": 0}, "requests_per_s"),
        ({"expires_s": -1}, "expires_s"),
        ({"tenant": "UPPER"}, "tenant"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(tmp_path: Path, bad: dict[str, object], field: str) -> None:
    store = KeyStore(home=tmp_path)
    with pytest.raises(InvalidInputError) as caught:
        store.create(**{"name": "ada", **bad})  # type: ignore[arg-type]
    assert caught.value.field == field
    assert store.list() == ()
    store.close()


def test_the_first_key_is_made_once_and_opens_everything(store: KeyStore, tmp_path: Path) -> None:
    path = store.ensure_first_key(tmp_path)
    assert path == tmp_path / "key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert store.authenticate(path.read_text().strip()).roles == {"predict", "admin", "audit"}
    assert store.ensure_first_key(tmp_path) is None
    assert len(store.list()) == 1


def test_a_database_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="postgresql://"):
        KeyStore("mysql://u:secret@host/db", home=tmp_path)


def test_a_missing_database_file_is_unavailable_not_empty(tmp_path: Path) -> None:
    store = KeyStore(home=tmp_path)
    secret, _ = store.create("ada")
    store.close()  # no open connection
    (tmp_path / "state" / "keys.db").rename(tmp_path / "elsewhere")
    with pytest.raises(UnavailableError):
        store.authenticate(secret)
    store.close()


class CountingStore(KeyStore):
    """Counts how often the database is asked."""

    asked = 0

    def look_up(self, secret: str) -> KeyInfo:
        self.asked += 1
        return super().look_up(secret)


async def test_answers_are_believed_for_a_while_and_no_longer(tmp_path: Path) -> None:
    store = CountingStore(home=tmp_path)
    front = Authenticator(store, cache_s=0.3)
    secret, info = store.create("ada")
    assert {(await front.authenticate(secret)).name for _ in range(50)} == {"ada"}
    assert store.asked == 1
    store.revoke(info.key_id)
    await asyncio.sleep(0.35)
    with pytest.raises(UnauthenticatedError):
        await front.authenticate(secret)
    with pytest.raises(UnauthenticatedError):
        await front.authenticate(secret)
    assert store.asked == 2, "a refusal is remembered too"
    store.close()


async def test_a_key_that_expires_is_not_believed_beyond_its_time(tmp_path: Path) -> None:
    store = KeyStore(home=tmp_path)
    front = Authenticator(store, cache_s=60)
    secret, _ = store.create("ada", expires_s=0.2)
    await front.authenticate(secret)
    await asyncio.sleep(0.25)
    with pytest.raises(UnauthenticatedError):
        await front.authenticate(secret)
    store.close()


async def test_many_callers_with_one_key_cost_one_question(tmp_path: Path) -> None:
    store = CountingStore(home=tmp_path)
    front = Authenticator(store, cache_s=5)
    secret, _ = store.create("ada")
    callers = [asyncio.ensure_future(front.authenticate(secret)) for _ in range(64)]
    await asyncio.sleep(0)
    callers[0].cancel()
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert [getattr(p, "name", None) for p in found[1:]] == ["ada"] * 63
    assert store.asked == 1
    store.close()


async def test_guesses_do_not_push_good_keys_out_or_fill_the_memory(tmp_path: Path) -> None:
    store = CountingStore(home=tmp_path)
    front = Authenticator(store, cache_s=60, max_entries=8)
    secret, _ = store.create("ada")
    await front.authenticate(secret)
    for i in range(40):
        with pytest.raises(UnauthenticatedError):
            await front.authenticate(f"tl_{i:010d}_{'x' * 43}")
    asked = store.asked
    with pytest.raises(UnauthenticatedError):
        await front.authenticate("no key at all")
    await front.authenticate(secret)
    assert store.asked == asked
    assert len(front._bad) == 8
    store.close()


async def test_keys_are_looked_up_by_many_threads_at_a_time(tmp_path: Path) -> None:
    store = KeyStore(home=tmp_path)
    secrets = [store.create(f"k{i}")[0] for i in range(40)]
    with ThreadPoolExecutor(40) as threads:
        names = list(threads.map(lambda secret: [store.authenticate(secret).name for _ in range(20)], secrets))
    assert names == [[f"k{i}"] * 20 for i in range(40)]
    store.close()


def test_a_first_key_whose_secret_can_not_be_left_anywhere_does_not_exist(tmp_path: Path) -> None:
    store = KeyStore(home=tmp_path)
    (tmp_path / "blocked").write_text("a file where a folder should be", encoding="utf-8")
    with pytest.raises((UnavailableError, OSError)):
        store.ensure_first_key(tmp_path / "blocked")
    assert store.list() == ()
    assert store.ensure_first_key(tmp_path) is not None
    store.close()
