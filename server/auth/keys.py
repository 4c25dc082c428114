"""API keys: made once, shown once, stored as a hash, revoked at any time."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
import string
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from sqlalchemy import Column, Double, MetaData, Row, Table, Text, delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from taskloom.core.errors import InvalidInputError, NotFoundError, UnauthenticatedError, UnavailableError
from taskloom.core.settings import Settings
from taskloom.core.store import write_atomically
from taskloom.core.types import Frozen, Name, Principal
from taskloom.server.auth.policy import ROLES
from taskloom.server.database import Database

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "keys_schema_version"
REFUSED = "the API key is not valid; ask for a new one (`taskloom key create`)"
"""The same for an unknown, a revoked and an expired key: the log tells them apart, a caller can't."""

_ALPHABET = string.digits + string.ascii_letters
_SECRET = re.compile(r"tl_([0-9A-Za-z]{10})_([0-9A-Za-z]{43})")

table = Table(
    "api_keys",
    MetaData(),
    Column("key_id", Text, primary_key=True),
    Column("secret_sha256", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("roles", Text, nullable=False),
    Column("models", Text, nullable=False),
    Column("requests_per_s", Double),
    Column("created_s", Double, nullable=False),
    Column("expires_s", Double),
    Column("revoked_s", Double),
)


class KeyInfo(Frozen):
    """What is known of a key. Times are on the `time.time()` clock; None is never."""

    key_id: str
    name: Name
    tenant: Name = "default"
    roles: tuple[str, ...] = ("predict",)
    models: tuple[str, ...] = ("*",)
    requests_per_s: float | None = Field(default=None, gt=0)
    created_s: float
    expires_s: float | None = None
    revoked_s: float | None = None

    def principal(self) -> Principal:
        return Principal(
            name=self.name,
            tenant=self.tenant,
            key_id=self.key_id,
            roles=frozenset(self.roles),
            models=self.models,
            requests_per_s=self.requests_per_s,
        )


def hash_secret(secret: str) -> str:
    """A secret has 256 random bits: nobody finds it from a plain hash, so that a slow one would only slow the gateway."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def open_keys(settings: Settings) -> KeyStore:
    """The key store of these settings; made if there is none."""
    return KeyStore(settings.auth.url, home=settings.home)


class KeyStore:
    """The keys in a database. Sync; thread-safe. Raises `UnavailableError` if the database can't be used."""

    def __init__(self, url: str = "", *, home: Path) -> None:
        self._database = Database(url, default=home / "state" / "keys.db")
        with _unavailable():
            self._database.create(MIGRATIONS, VERSION_TABLE)

    def create(
        self,
        name: str,
        *,
        tenant: str = "default",
        roles: Sequence[str] = ("predict",),
        models: Sequence[str] = ("*",),
        requests_per_s: float | None = None,
        expires_s: float | None = None,
    ) -> tuple[str, KeyInfo]:
        """Makes a key that is valid for `expires_s` seconds (None: until revoked). The secret is returned here and never
        again."""
        unknown = sorted(set(roles) - set(ROLES))
        if unknown or not roles:
            raise InvalidInputError(f"no role named {', '.join(unknown) or 'nothing'}; there are: {', '.join(ROLES)}", "roles")
        if expires_s is not None and expires_s <= 0:
            raise InvalidInputError(f"a key can't expire after {expires_s} s; give a positive time", "expires_s")
        now = time.time()
        key_id = _random_text(10)
        secret = f"tl_{key_id}_{_random_text(43)}"
        try:
            info = KeyInfo(
                key_id=key_id,
                name=name,
                tenant=tenant,
                roles=tuple(dict.fromkeys(roles)),
                models=tuple(models) or ("*",),
                requests_per_s=requests_per_s,
                created_s=now,
                expires_s=None if expires_s is None else now + expires_s,
            )
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise InvalidInputError(f"{field} can't be {first['input']!r}: {first['msg']}", field) from exc
        row = info.model_dump() | {"roles": json.dumps(info.roles), "models": json.dumps(info.models)}
        with _unavailable(), self._database.transaction() as connection:
            connection.execute(insert(table).values(secret_sha256=hash_secret(secret), **row))
        return secret, info

    def list(self) -> tuple[KeyInfo, ...]:
        """Every key that was ever made, oldest first."""
        with _unavailable(), self._database.reading() as connection:
            return tuple(_info(row) for row in connection.execute(select(table).order_by(table.c.created_s)))

    def revoke(self, key_id: str) -> KeyInfo:
        """Ends a key. One that was revoked before stays as it is."""
        with _unavailable(), self._database.transaction() as connection:
            change = update(table).where(table.c.key_id == key_id, table.c.revoked_s.is_(None))
            connection.execute(change.values(revoked_s=time.time()))
            row = connection.execute(select(table).where(table.c.key_id == key_id)).one_or_none()
        if row is None:
            raise NotFoundError(f"no key has the id {key_id!r}; `taskloom key list` shows them")
        return _info(row)

    def discard(self, key_id: str) -> None:
        """Removes a key as if it had never been: for one that nobody has been given."""
        with _unavailable(), self._database.transaction() as connection:
            connection.execute(delete(table).where(table.c.key_id == key_id))

    def authenticate(self, secret: str) -> Principal:
        """Whose key it is; raises `UnauthenticatedError` for one that is unknown, revoked or expired."""
        return self.look_up(secret).principal()

    def look_up(self, secret: str) -> KeyInfo:
        """The valid key that has this secret; raises as `authenticate` does."""
        found = _SECRET.fullmatch(secret)
        if found is None:
            raise _refused("has not the form of a key", "?")
        with _unavailable(), self._database.reading() as connection:
            row = connection.execute(select(table).where(table.c.key_id == found[1])).one_or_none()
        if not hmac.compare_digest(row.secret_sha256 if row else "0" * 64, hash_secret(secret)) or row is None:
            raise _refused("is unknown", found[1])
        info = _info(row)
        if info.revoked_s is not None:
            raise _refused("was revoked", info.key_id)
        if info.expires_s is not None and info.expires_s <= time.time():
            raise _refused("is expired", info.key_id)
        return info

    def ensure_first_key(self, home: Path) -> Path | None:
        """If there is no key at all, makes one named `default` with every role and writes its secret to `<home>/key`, which
        SDK and CLI read by default. Returns that path, or None if there was a key."""
        with _unavailable(), self._database.reading() as connection:
            if connection.execute(select(func.count()).select_from(table)).scalar_one():
                return None
        secret, made = self.create("default", roles=ROLES)
        path = home / "key"
        try:
            with _unavailable():
                write_atomically(path, f"{secret}\n".encode(), mode=0o600)
        except BaseException:
            self.discard(made.key_id)
            raise
        return path

    def close(self) -> None:
        self._database.close()


class Authenticator:
    """A cached, async front to a `KeyStore` for one event loop. An answer, good or bad, is believed for `cache_s`; that is
    the longest that a revoked key still works. At most `max_entries` answers of each kind are kept."""

    def __init__(self, store: KeyStore, cache_s: float, max_entries: int = 4096) -> None:
        self._store = store
        self._cache_s = cache_s
        self._max_entries = max_entries
        self._good: dict[str, tuple[float, Principal]] = {}
        self._bad: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[Principal]] = {}

    async def authenticate(self, secret: str) -> Principal:
        """Whose key it is; raises `UnauthenticatedError`, or `UnavailableError` if the keys can't be read."""
        if _SECRET.fullmatch(secret) is None:
            raise UnauthenticatedError(REFUSED)  # as `look_up` would, and without a thread
        digest = hash_secret(secret)
        now = time.monotonic()
        known = self._good.get(digest)
        if known is not None and known[0] > now:
            return known[1]
        if self._bad.get(digest, 0.0) > now:
            raise UnauthenticatedError(REFUSED)
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(self._ask(secret, digest))
            task.add_done_callback(lambda done: self._asked(digest, done))
        return await asyncio.shield(task)  # one caller who goes away takes nothing from the others

    async def _ask(self, secret: str, digest: str) -> Principal:
        try:
            info = await asyncio.to_thread(self._store.look_up, secret)
        except UnauthenticatedError:
            self._good.pop(digest, None)
            _remember(self._bad, digest, time.monotonic() + self._cache_s, self._max_entries)
            raise
        left_s = self._cache_s if info.expires_s is None else min(self._cache_s, info.expires_s - time.time())
        principal = info.principal()
        _remember(self._good, digest, (time.monotonic() + left_s, principal), self._max_entries)
        return principal

    def _asked(self, digest: str, task: asyncio.Task[Principal]) -> None:
        del self._asking[digest]
        if not task.cancelled():
            task.exception()  # seen, even if every caller went away


def _remember(cache: dict[str, Any], digest: str, value: Any, limit: int) -> None:
    cache.pop(digest, None)
    cache[digest] = value
    while len(cache) > limit:
        del cache[next(iter(cache))]  # the oldest


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _refused(why: str, key_id: str) -> UnauthenticatedError:
    log.warning("a call was refused: its key %s %s", key_id, why)
    return UnauthenticatedError(REFUSED)


def _info(row: Row[Any]) -> KeyInfo:
    data = row._asdict()
    del data["secret_sha256"]
    return KeyInfo(**data | {"roles": tuple(json.loads(data["roles"])), "models": tuple(json.loads(data["models"]))})


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as exc:
        log.error("the key database can't be used: %s", " ".join(str(getattr(exc, "orig", None) or exc).split()))
        raise UnavailableError("the API keys can't be read or written now; try again later") from exc
